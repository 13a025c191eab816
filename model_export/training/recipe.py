"""Recipes: everything that decides what a training computes, as data. A run prints its recipe and stores it.

`paper-imagenet` and `paper-cifar` are sections 3.4 and 4.2 of the paper; `modern` is what torchvision trains its
second weights with, as far as it concerns ResNets; `finetune` starts from trained weights, which is what most users
want; `demo` is for pictures that are drawn on the spot and seen once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_export.errors import InputError
from service.card import Architecture, Interpolation

RecipeName = Literal["paper-imagenet", "paper-cifar", "modern", "finetune", "demo"]


class Recipe(BaseModel):
    """One training. Defaults are the paper's for ImageNet (section 3.4); shares are of the whole run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: RecipeName = "paper-imagenet"

    # How long, and how fast it learns.
    epochs: float | None = Field(default=120, gt=0)
    """passes over the training set; or give `steps`"""
    steps: int | None = Field(default=None, ge=1)
    """optimiser steps; or give `epochs`"""
    batch_size: int = Field(default=256, ge=2)
    """images per optimiser step, over all processes"""
    accumulate: int = Field(default=1, ge=1)
    """parts that a batch is computed in, to save memory; batch norms see one part at a time"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    """learning rate at its peak"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """of SGD; of AdamW, beta1"""
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_norms: bool = True
    """whether weight decay also pulls on batch norms and biases"""
    schedule: Literal["step", "plateau", "cosine", "linear"] = "step"
    """how the learning rate falls: at `milestones`; when the validation error stalls; to zero as half a cosine from the
    end of the warm-up; to zero in a line from the only milestone on"""
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the run at which `step` multiplies the learning rate by `gamma`"""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    """evaluations without a better error before `plateau` multiplies the learning rate by `gamma`"""
    warmup: float = Field(default=0.0, ge=0)
    """epochs in which the learning rate rises from near zero"""
    warmup_lr: float | None = Field(default=None, gt=0)
    """a learning rate to begin with, until the training error has come down to `warmup_error` (section 4.2)"""
    warmup_error: float = Field(default=0.8, gt=0, lt=1)

    # What the network sees.
    family: Literal["imagenet", "cifar"] = "imagenet"
    """which networks it is meant for"""
    size: int = Field(default=224, ge=8)
    """side of the training images, pixels"""
    first_size: int | None = Field(default=None, ge=8)
    """a smaller side to begin with, until the first milestone"""
    crop: Literal["scale", "pad", "area", "centre"] = "scale"
    """scale: the shorter side drawn from `scale`, then a random square. pad: `padding` pixels around, then a random
    square. area: a random rectangle of a share of the `area` (Szegedy et al. 2015). centre: as in testing"""
    scale: tuple[int, int] = (256, 480)
    padding: int = Field(default=4, ge=0)
    area: tuple[float, float] = (0.08, 1.0)
    mirror: bool = True
    """half of the images, left to right"""
    pca_colour: float = Field(default=0.1, ge=0)
    """standard deviation of AlexNet's colour augmentation, in units of the principal components'"""
    erasing: float = Field(default=0.0, ge=0, le=1)
    """share of images of which a random rectangle is erased (Zhong et al. 2017)"""
    mixup: float = Field(default=0.0, ge=0)
    """alpha of mixup (Zhang et al. 2017)"""
    cutmix: float = Field(default=0.0, ge=0)
    """alpha of CutMix (Yun et al. 2019); with both, each batch draws one of them"""
    normalisation: Literal["mean-image", "imagenet", "weights"] = "mean-image"
    """mean-image: the mean per pixel of the training set is subtracted (section 3.4). imagenet: mean and deviation per
    channel of ImageNet (or of CIFAR-10, for its networks). weights: as the weights that it starts from were trained"""
    test_resize: int = Field(default=256, ge=8)
    """shorter side in testing and serving, before the centre is cut out"""
    test_size: int = Field(default=224, ge=8)
    interpolation: Interpolation = "bilinear"

    # What the network is told, and what is kept of it.
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay per step of an average of the weights, which is then what is evaluated and kept"""
    recompute_bn: int = Field(default=10_000, ge=0)
    """training images over which the batch norms' statistics are computed anew at the end; 0 keeps the averages"""
    freeze: bool = False
    """train the last layer only"""
    sync_bn: bool = False
    """with several processes, normalise over the batches of all of them"""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and none for the other")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < share < 1 for share in self.milestones):
            raise ValueError("milestones are rising shares of the run, between 0 and 1")
        if self.schedule == "linear" and len(self.milestones) != 1:
            raise ValueError("the linear schedule takes one milestone, from which the learning rate falls")
        if self.first_size is not None and not self.milestones:
            raise ValueError("first_size holds until the first milestone: give milestones")
        if self.normalisation == "mean-image" and (self.size != self.test_size or self.first_size is not None):
            raise ValueError("a mean image has one size: make size and test_size equal, or normalisation imagenet")
        if self.test_size > self.test_resize:
            raise ValueError("test_size is cut out of test_resize: it cannot be larger")
        if self.crop == "scale" and self.scale[0] < self.size:
            raise ValueError(f"squares of size {self.size} are cut out of images of scale {self.scale[0]} and larger")
        if self.scale[0] > self.scale[1] or self.area[0] > self.area[1] or self.area[0] <= 0:
            raise ValueError("scale and area are a smallest and a largest value")
        if self.batch_size % self.accumulate:
            raise ValueError("accumulate divides batch_size")
        return self

    def milestone_steps(self, steps: int) -> tuple[int, ...]:
        """The milestones of a run of so many steps."""
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
        # torchvision averages every 32 steps, with 1 - 0.99998 scaled to its batch and epochs: per step, this
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
        area=(0.25, 1.0),  # few pictures: a crop should still show what the label says
        pca_colour=0,
        normalisation="weights",
        label_smoothing=0.1,
        recompute_bn=0,
    ),
    "demo": Recipe(
        name="demo",
        epochs=1,
        batch_size=16,
        optimizer="adamw",  # there are few steps: after 4096 pictures at 96 px it was 74 % right, SGD 57 %
        lr=1e-3,
        weight_decay=0.05,
        schedule="linear",
        # Small pictures teach most of it at a third of the price. The learning rate falls only after them: it has to
        # move the weights, and not just the batch norms, to the size of serving.
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


def named(name: RecipeName, architecture: Architecture | None = None) -> Recipe:
    """The recipe for a network: from ResNet-110 on, the paper warms up at 0.01 (section 4.2)."""
    recipe = RECIPES[name]
    if name == "paper-cifar" and architecture is not None and architecture.depth >= 110:
        return recipe.model_copy(update={"warmup_lr": 0.01})
    return recipe


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields changed; values may be text, as on a command line.

    Giving `epochs` takes `steps` away, and the other way round.

    Raises:
        InputError: a value is not allowed, or the fields do not go together.
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


def described(recipe: Recipe) -> list[tuple[str, str]]:
    """Every field with its value, for people."""
    return [(name, _text(value)) for name, value in recipe.model_dump().items()]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
