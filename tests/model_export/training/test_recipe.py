"""The recipes against the paper's numbers, and what may be changed in them."""

import pytest

from model_export.errors import InputError
from model_export.training.recipe import RECIPE_NAMES, Recipe, describe, override
from model_export.training.recipes import RECIPES, recipe_for
from service.runtime.model_card import Architecture

CIFAR = Architecture(depth=20, family="cifar", shortcut="A", num_classes=10)


def test_paper_imagenet_is_section_3_4() -> None:
    r = RECIPES["paper-imagenet"]
    assert (r.optimizer, r.lr, r.momentum, r.weight_decay, r.batch_size) == ("sgd", 0.1, 0.9, 1e-4, 256)
    assert (r.crop, r.scale, r.size, r.mirror) == ("scale", (256, 480), 224, True)
    assert (r.normalisation, r.pca_colour) == ("mean-image", 0.1)
    assert r.epochs is not None
    assert [r.epochs * share for share in r.milestones] == [30, 60, 90]
    assert pytest.approx(r.epochs, rel=0.01) == 60e4 * 256 / 1_281_167  # "up to 60 x 10^4 iterations"
    assert (r.label_smoothing, r.mixup, r.cutmix, r.ema, r.warmup) == (0, 0, 0, None, 0)
    assert r.recompute_bn > 0


def test_paper_cifar_is_section_4_2() -> None:
    r = RECIPES["paper-cifar"]
    assert (r.optimizer, r.lr, r.momentum, r.weight_decay, r.batch_size) == ("sgd", 0.1, 0.9, 1e-4, 128)
    assert r.steps == 64_000
    assert [r.steps * share for share in r.milestones] == [32_000, 48_000]
    assert (r.crop, r.padding, r.size, r.mirror, r.pca_colour) == ("pad", 4, 32, True, 0)
    assert r.normalisation == "mean-image"
    assert (r.test_resize, r.test_size) == (32, 32)


def test_only_resnet_110_and_deeper_warm_up() -> None:
    assert recipe_for("paper-cifar", CIFAR).warmup_lr is None
    deep = recipe_for("paper-cifar", CIFAR.model_copy(update={"depth": 110}))
    assert (deep.warmup_lr, deep.warmup_error) == (0.01, 0.8)


def test_modern_is_torchvisions() -> None:
    r = RECIPES["modern"]
    assert (r.schedule, r.warmup, r.label_smoothing, r.mixup, r.cutmix) == ("cosine", 5, 0.1, 0.2, 1.0)
    assert (r.erasing, r.decay_norms, r.size, r.test_size, r.test_resize) == (0.1, False, 176, 224, 232)
    assert r.ema == pytest.approx(1 - (1 - 0.99998) * 1024 * 32 / 600 / 32, abs=1e-5)


def test_every_recipe_knows_its_name() -> None:
    assert tuple(RECIPES) == RECIPE_NAMES
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_overrides_may_be_strings() -> None:
    r = override(
        RECIPES["paper-imagenet"],
        {"lr": "0.05", "epochs": "2.5", "mirror": "no", "milestones": ["0.5"], "scale": ["300", "310"], "ema": None},
    )
    assert (r.lr, r.epochs, r.mirror, r.milestones, r.scale) == (0.05, 2.5, False, (0.5,), (300, 310))


def test_a_length_replaces_the_other_kind_of_length() -> None:
    assert override(RECIPES["paper-cifar"], {"epochs": "3"}).steps is None
    assert override(RECIPES["paper-imagenet"], {"steps": "7"}).epochs is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "fast"}, "recipe paper-imagenet: lr: .*number"),
        ({"lr": "-1"}, "lr: .*greater than 0"),
        ({"optimizer": "lion"}, "optimizer: .*'sgd' or 'adamw'"),
        ({"epochs": "3", "steps": "4"}, "either epochs or steps"),
        ({"milestones": ["0.5", "0.2"]}, "rising shares"),
        ({"milestones": ["30"]}, "rising shares"),
        ({"size": "176"}, "mean image has one size"),
        ({"scale": ["200", "300"]}, "squares of size 224"),
        ({"scale": ["480", "256"]}, "smallest and a largest"),
        ({"accumulate": "3"}, "accumulate must divide batch_size"),
        ({"test_resize": "100"}, "test_size and width are cut out of test_resize"),
        ({"schedule": "linear"}, "one milestone"),
        ({"first_size": "96", "milestones": []}, "first_size"),
        ({"class_weights": "balanced", "sampling": "balanced"}, "both make up for the same imbalance"),
        ({"early_stopping": "0"}, "early_stopping: .*greater than or equal to 1"),
        ({"freeze": "yes"}, "freeze: .*'stem', 'conv2', 'conv3', 'conv4' or 'conv5'"),
    ],
)
def test_contradictory_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(RECIPES["paper-imagenet"], changes)


def test_a_recipe_is_described_in_full() -> None:
    lines = dict(describe(RECIPES["paper-cifar"]))
    assert lines.keys() == Recipe.model_fields.keys()
    assert (lines["milestones"], lines["mirror"], lines["ema"]) == ("0.5 0.75", "yes", "none")


def test_fields_are_documented_unless_the_name_says_it_all() -> None:
    silent = {name for name, field in Recipe.model_fields.items() if not field.description}
    assert silent <= {
        "name", "optimizer", "weight_decay", "gamma", "warmup_error", "scale", "padding", "area", "test_size",
        "interpolation", "label_smoothing",
    }  # fmt: skip
