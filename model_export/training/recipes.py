"""The recipes by name.

`paper-imagenet` and `paper-cifar` are sections 3.4 and 4.2 of the paper. `modern` is torchvision's recipe for its
second ResNet weights, but for TrivialAugment and repeated augmentation, which are not built. `finetune` starts from
trained weights, as most users do. `demo` is for drawings that are seen once each.
"""

from __future__ import annotations

from model_export.training.recipe import Recipe, RecipeName
from service.runtime.model_card import Architecture

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
