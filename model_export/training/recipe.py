"""Recipes: all settings that decide what a training computes. A run prints its recipe and stores it.

`paper-imagenet` and `paper-cifar` are sections 3.4 and 4.2 of the paper. `modern` is torchvision's recipe for its
second ResNet weights. `finetune` starts from trained weights, as most users do. `demo` is for drawings that are seen
once each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_export.errors import InputError
from model_export.nets.resnet import Stage
from service.runtime.model_card import Architecture, Interpolation

RecipeName = Literal["paper-imagenet", "paper-cifar", "modern", "finetune", "demo"]
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)


class Recipe(BaseModel):
    """The settings of a training. Defaults are the paper's for ImageNet (section 3.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: RecipeName = "paper-imagenet"

    # Length and learning rate.
    epochs: float | None = Field(default=120, gt=0)
    """passes over the training set; alternative to `steps`"""
    steps: int | None = Field(default=None, ge=1)
    """optimiser steps; alternative to `epochs`"""
    batch_size: int = Field(default=256, ge=2)
    """images per optimiser step, over all processes"""
    accumulate: int = Field(default=1, ge=1)
    """parts in which a batch is computed, to save memory; batch norms see one part at a time"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    """peak learning rate"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """of SGD; beta1 of AdamW"""
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_norms: bool = True
    """whether weight decay applies to batch norms and biases, too"""
    schedule: Literal["step", "plateau", "cosine", "linear"] = "step"
    """how the learning rate falls. step: at the `milestones`. plateau: when the validation error stalls. cosine: along
    half a cosine to zero, from the end of the warm-up on. linear: along a line to zero, from the only milestone on"""
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the run at which `step` multiplies the learning rate by `gamma`"""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    """evaluations without a better error before `plateau` multiplies the learning rate by `gamma`"""
    warmup: float = Field(default=0.0, ge=0)
    """epochs in which the learning rate rises from near zero to its peak"""
    warmup_lr: float | None = Field(default=None, gt=0)
    """learning rate at the start, until the training error has fallen to `warmup_error` (section 4.2)"""
    warmup_error: float = Field(default=0.8, gt=0, lt=1)

    early_stopping: int | None = Field(default=None, ge=1)
    """epochs without a lower validation error after which the run ends"""

    # Images.
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """which images make up an epoch. shuffle: each once. balanced: equally many of every class; those of small classes
    come several times, each time augmented anew, those of large ones not in every epoch"""
    family: Literal["imagenet", "cifar"] = "imagenet"
    """networks that the recipe is meant for"""
    size: int = Field(default=224, ge=8)
    """side of the training images, pixels"""
    first_size: int | None = Field(default=None, ge=8)
    """a smaller side of the training images until the first milestone, pixels"""
    crop: Literal["scale", "pad", "area", "centre"] = "scale"
    """scale: resize the shorter side to a number drawn from `scale`, then cut out a random square. pad: add a border of
    `padding` pixels, then cut out a random square. area: cut out a random rectangle, its share of the image drawn from
    `area` (Szegedy et al. 2015). centre: as in testing"""
    scale: tuple[int, int] = (256, 480)
    padding: int = Field(default=4, ge=0)
    area: tuple[float, float] = (0.08, 1.0)
    mirror: bool = True
    """flip half of the images left to right"""
    pca_colour: float = Field(default=0.1, ge=0)
    """standard deviation of AlexNet's colour augmentation, in units of the principal components'"""
    erasing: float = Field(default=0.0, ge=0, le=1)
    """share of images in which a random rectangle is erased (Zhong et al. 2017)"""
    mixup: float = Field(default=0.0, ge=0)
    """alpha of mixup (Zhang et al. 2017)"""
    cutmix: float = Field(default=0.0, ge=0)
    """alpha of CutMix (Yun et al. 2019); with `mixup` too, one of them is drawn for each batch"""
    normalisation: Literal["mean-image", "imagenet", "weights"] = "mean-image"
    """mean-image: subtracts the mean of the training set per pixel (section 3.4). imagenet: mean and standard deviation
    of ImageNet per channel (for the cifar family, of CIFAR-10). weights: as the weights to start from were trained"""
    test_resize: int = Field(default=256, ge=8)
    """shorter side in testing and serving, before the centre square is cut out"""
    test_size: int = Field(default=224, ge=8)
    interpolation: Interpolation = "bilinear"

    # Labels and weights.
    class_weights: Literal["balanced"] | None = None
    """factors of the loss by class. balanced: in inverse proportion to the number of training images"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay per step of a moving average of the weights; if given, the average is evaluated and kept"""
    recompute_bn: int = Field(default=10_000, ge=0)
    """training images from which batch-norm statistics are recomputed at the end; 0 keeps the running averages"""
    freeze: Stage | None = None
    """the last stage that keeps its weights and batch-norm statistics: stem, conv2, conv3, conv4 or conv5, named as in
    table 1 of the paper. All stages before it keep theirs, too; conv5 (conv4 for the cifar family) trains the last
    layer only. Batch-norm statistics are then not recomputed"""
    sync_bn: bool = False
    """with several processes, normalise over the batches of all of them"""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps; the other must be none")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < share < 1 for share in self.milestones):
            raise ValueError("milestones must be rising shares of the run, between 0 and 1")
        if self.schedule == "linear" and len(self.milestones) != 1:
            raise ValueError("the linear schedule takes one milestone, from which the learning rate falls")
        if self.first_size is not None and not self.milestones:
            raise ValueError("first_size is used until the first milestone: give milestones")
        if self.normalisation == "mean-image" and (self.size != self.test_size or self.first_size is not None):
            raise ValueError(
                "a mean image has one size: make size and test_size equal, or choose normalisation imagenet"
            )
        if self.test_size > self.test_resize:
            raise ValueError("test_size is cut out of test_resize: it cannot be larger")
        if self.crop == "scale" and self.scale[0] < self.size:
            raise ValueError(f"squares of size {self.size} do not fit into images of scale {self.scale[0]}")
        if self.scale[0] > self.scale[1] or self.area[0] > self.area[1] or self.area[0] <= 0:
            raise ValueError("scale and area take a smallest and a largest value")
        if self.class_weights and self.sampling == "balanced":
            raise ValueError(
                "class_weights and sampling would both make up for the same imbalance: leave one of them out"
            )
        if self.batch_size % self.accumulate:
            raise ValueError("accumulate must divide batch_size")
        return self

    def milestone_steps(self, steps: int) -> tuple[int, ...]:
        """The milestones of a run of `steps` steps, in steps."""
        return tuple(round(share * steps) for share in self.milestones)


RECIPES: dict[RecipeName, Recipe] = {
    "paper-imagenet": Recipe(),
    "paper-cifar": Recipe(
        name="paper-cifar",
        epochs=None,
        steps=64_000,
        batch_size=128,
        milestones=(0.5, 0.75),  # 32k and 48k iterations
        family="cifar",
        size=32,
        crop="pad",
        pca_colour=0,
        test_resize=32,
        test_size=32,
    ),
    "modern": Recipe(
        name="modern",
        epochs=600,
        batch_size=1024,
        lr=0.5,
        weight_decay=2e-5,
        decay_norms=False,
        schedule="cosine",
        milestones=(),
        warmup=5,
        size=176,
        crop="area",
        pca_colour=0,
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        normalisation="imagenet",
        test_resize=232,
        label_smoothing=0.1,
        # torchvision averages every 32 steps, with 1 - 0.99998 scaled by batch size and epochs; per step, that is
        ema=0.99997,
        recompute_bn=0,
    ),
    "finetune": Recipe(
        name="finetune",
        epochs=20,
        batch_size=32,
        lr=0.01,
        decay_norms=False,
        schedule="cosine",
        milestones=(),
        warmup=1,
        crop="area",
        area=(0.25, 1.0),  # with few pictures, a crop should still show the labelled object
        pca_colour=0,
        normalisation="weights",
        label_smoothing=0.1,
        recompute_bn=0,
    ),
    "demo": Recipe(
        name="demo",
        epochs=1,
        batch_size=16,
        optimizer="adamw",  # for few steps: after 4096 pictures at 96 px its accuracy was 74 %, with SGD 57 %
        lr=1e-3,
        weight_decay=0.05,
        schedule="linear",
        # Small pictures teach most of it at a third of the cost. The learning rate falls only after them: the weights,
        # and not only the batch norms, have to adapt to the size of serving.
        milestones=(0.7,),
        first_size=112,
        warmup=0.08,
        crop="centre",
        mirror=False,
        pca_colour=0,
        normalisation="imagenet",
        label_smoothing=0.05,
        recompute_bn=0,
    ),
}


def recipe_for(name: RecipeName, architecture: Architecture | None = None) -> Recipe:
    """The recipe of a name, adapted to a network: from ResNet-110 on, the paper warms up at 0.01 (section 4.2)."""
    recipe = RECIPES[name]
    if name == "paper-cifar" and architecture is not None and architecture.depth >= 110:
        return recipe.model_copy(update={"warmup_lr": 0.01})
    return recipe


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields changed; values may be strings, as on a command line.

    A value for `epochs` sets `steps` to None, and the other way round.

    Raises:
        InputError: a value is invalid, or the fields contradict each other.
    """
    fields = recipe.model_dump() | dict(changes)
    for given, other in (("epochs", "steps"), ("steps", "epochs")):
        if changes.get(given) is not None and other not in changes:
            fields[other] = None
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"recipe {recipe.name}: {where + ': ' if where else ''}{message}") from error


def describe(recipe: Recipe) -> list[tuple[str, str]]:
    """Every field with its value in words."""
    return [(name, _text(value)) for name, value in recipe.model_dump().items()]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
