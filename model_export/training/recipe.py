"""All settings that decide what a training computes. A run prints its recipe and stores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model_export.errors import InputError
from model_export.nets.resnet import Stage
from service.runtime.preprocessing import Fit, Interpolation, Preprocessing

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
    """sgd: stochastic gradient descent with momentum. adamw: Adam with decoupled weight decay (Loshchilov and Hutter
    2017)"""
    lr: float = Field(default=0.1, gt=0)
    """peak learning rate"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """of SGD; beta1 of AdamW"""
    weight_decay: float = Field(default=1e-4, ge=0)
    """how much the weights shrink at every step, times the learning rate"""
    decay_norms: bool = True
    """whether weight decay applies to batch norms and biases, too"""
    schedule: Literal["step", "plateau", "cosine", "linear"] = "step"
    """how the learning rate falls. step: at the `milestones`. plateau: when the validation error stalls. cosine: along
    half a cosine to zero, from the end of the warm-up on. linear: along a line to zero, from the only milestone on"""
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the run at which `step` multiplies the learning rate by `gamma`"""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """factor of the learning rate at the milestones of `step`, and in `plateau`"""
    patience: int = Field(default=5, ge=1)
    """evaluations without a better error before `plateau` multiplies the learning rate by `gamma`"""
    warmup: float = Field(default=0.0, ge=0)
    """epochs in which the learning rate rises from near zero to its peak"""
    warmup_lr: float | None = Field(default=None, gt=0)
    """learning rate at the start, until the training error has fallen to `warmup_error` (section 4.2)"""
    warmup_error: float = Field(default=0.8, gt=0, lt=1)
    """the training error, as a share, that ends `warmup_lr`"""

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
    """for crop `scale`: smallest and largest shorter side, pixels"""
    padding: int = Field(default=4, ge=0)
    """for crop `pad`: width of the border, pixels"""
    area: tuple[float, float] = (0.08, 1.0)
    """for crop `area`: smallest and largest share of the image"""
    mirror: bool = True
    """flip half of the images left to right"""
    pca_colour: float = Field(default=0.1, ge=0)
    """size of a random colour shift along the principal components of the training set's colours: a standard deviation,
    in units of each component's own (AlexNet multiplies by the variances, which depend on the scale of pixel values)"""
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
    """side of the images in testing and serving, pixels; with `width`, their height"""
    interpolation: Interpolation = "bilinear"
    """filter for resizing"""
    width: int | None = Field(default=None, ge=8)
    """width of the images in training, testing and serving if it is not `size`, which is then their height"""
    fit: Fit = "crop"
    """how an image gets the size of testing and serving. crop: `test_resize`, then the centre. squash: resized as it
    is, whatever becomes of its proportions. letterbox: it keeps them, and bars of the colour `fill` are added"""
    fill: tuple[int, int, int] = (0, 0, 0)
    """colour of the bars of a letterbox: red, green and blue, 0 to 255"""
    channels: Literal[1, 3] = 3
    """3: colour. 1: images become grey, and the network gets one channel, which it takes for all three"""
    window: tuple[int, int] | None = None
    """the values of 16-bit images that become black and white; none: by the sBIT chunk of each file, or its largest
    value"""

    # Labels and weights.
    class_weights: Literal["balanced"] | None = None
    """factors of the loss by class. balanced: in inverse proportion to the number of training images"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """share of the target that is spread over all classes (Szegedy et al. 2016)"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay per step of a moving average of the weights; if given, the average is evaluated and kept"""
    recompute_bn: int = Field(default=10_000, ge=0)
    """training images from which batch-norm statistics are recomputed at the end, for the last weights and for the
    best; 0 keeps the running averages, with which earlier epochs are validated"""
    freeze: Stage | None = None
    """the last stage that keeps its weights and batch-norm statistics: stem, conv2, conv3, conv4 or conv5, named as in
    table 1 of the paper. All stages before it keep theirs, too; conv5 (conv4 for the cifar family) trains the last
    layer only. Batch-norm statistics are then not recomputed"""
    sync_bn: bool = False
    """with several processes, normalise over the batches of all of them"""

    @field_validator("channels", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

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
        if self.fit == "crop" and max(self.test_size, self.width or 0) > self.test_resize:
            raise ValueError("test_size and width are cut out of test_resize: they cannot be larger")
        if self.width is not None and (self.size != self.test_size or self.first_size is not None):
            raise ValueError("width holds for training and testing: make size and test_size equal, without first_size")
        if self.crop in ("scale", "pad") and (self.fit != "crop" or self.width is not None):
            raise ValueError(f"crop {self.crop} cuts out squares: choose area or centre")
        if self.crop == "area" and self.fit == "letterbox":
            raise ValueError("crop area changes the proportions that a letterbox keeps: choose centre")
        if self.channels == 1 and self.pca_colour:
            raise ValueError("grey images have no colours to change: set pca_colour to 0")
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

    def preprocessing(self, usual: Preprocessing, size: int | None = None) -> Preprocessing:
        """That of testing and serving, or of training images of another size that are cut as in testing.

        Args:
            usual: has the mean and std.
            size: height of the training images.
        """
        height = size or self.test_size
        fields = {
            "resize": max(height, self.test_resize * height // self.test_size),
            "crop": height if self.width is None else (height, self.width),
            "fit": self.fit,
            "fill": self.fill,
            "channels": self.channels,
            "window": self.window,
            "interpolation": self.interpolation,
        }
        return Preprocessing.model_validate(usual.model_dump() | fields)

    def milestone_steps(self, steps: int) -> tuple[int, ...]:
        """The milestones of a run of `steps` steps, in steps."""
        return tuple(round(share * steps) for share in self.milestones)


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
        if first["type"].startswith("bool_"):
            message = f"expected yes or no, got {first['input']!r}"
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
