"""Preprocessing as timm and transformers write it into their JSON files, read as that of a model card.

Whatever a card cannot express is refused: served otherwise, the network would silently be less accurate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_export.errors import InputError
from service.runtime.preprocessing import Fit, Interpolation, Preprocessing

# Pillow's numbers of the filters that a card can name.
PILLOW_FILTERS: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}

# How timm calls what becomes of images that are not of the input's proportions. (timm's border has the colour `mean`.)
TIMM_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash", "border": "letterbox"}

# From here on, transformers' ConvNext processor squashes the whole image into a square instead of cutting out a centre.
CONVNEXT_SQUASHES_FROM = 384

Triple = tuple[float, float, float]


Fields = TypeVar("Fields", bound=BaseModel)


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)  # JSON as Python reads it has NaN


class _TimmFields(_Fields):
    """Fields of `pretrained_cfg`, with the defaults of timm's `resolve_data_config`."""

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bicubic"
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    crop_mode: str = "center"
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)


class _ProcessorFields(_Fields):
    """Fields of `preprocessor_config.json`; the older files have `feature_extractor_type`."""

    image_processor_type: str = ""
    feature_extractor_type: str = ""
    size: int | dict[str, int]
    crop_size: int | dict[str, int] | None = None
    crop_pct: float = Field(default=224 / 256, gt=0, le=1)
    resample: int
    image_mean: Triple
    image_std: Triple
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_center_crop: bool | None = None
    do_rescale: bool = True
    do_normalize: bool = True


def timm_preprocessing(content: Mapping[str, Any], path: Path) -> Preprocessing:
    """The preprocessing in timm's `pretrained_cfg`, at its training size, which timm uses by default.

    Args:
        path: of the file, for messages.

    Raises:
        InputError: a field is invalid, or a card cannot express it.
    """
    fields = parse(_TimmFields, content, path)
    channels, height, width = fields.input_size
    fit = TIMM_FITS.get(fields.crop_mode)
    if fit is None:
        raise _refusal(path, "crop_mode", fields.crop_mode)
    if channels != 3 or (height != width and fit == "crop"):
        raise _refusal(path, "input_size", list(fields.input_size))
    if fit != "crop" and fields.crop_pct != 1:  # timm would then cut out a part of it
        raise _refusal(path, f"crop_mode {fields.crop_mode} with crop_pct", fields.crop_pct)
    interpolation = next((name for name in get_args(Interpolation) if name == fields.interpolation), None)
    if interpolation is None:
        raise _refusal(path, "interpolation", fields.interpolation)
    return _preprocessing(
        path,
        resize=math.floor(height / fields.crop_pct),
        crop=height if height == width else (height, width),
        fit=fit,
        fill=tuple(round(255 * value) for value in fields.mean) if fit == "letterbox" else (0, 0, 0),
        interpolation=interpolation,
        mean=fields.mean,
        std=fields.std,
    )


def transformers_preprocessing(content: Mapping[str, Any], path: Path) -> Preprocessing:
    """The preprocessing in transformers' `preprocessor_config.json`: that of ConvNext, or a resize and a centre crop.

    Args:
        path: of the file, for messages.

    Raises:
        InputError: a field is invalid, or a card cannot express it.
    """
    fields = parse(_ProcessorFields, content, path)
    if not fields.do_resize:
        raise _refusal(path, "do_resize", False)
    if not fields.do_rescale:
        raise _refusal(path, "do_rescale", False)
    if not math.isclose(fields.rescale_factor, 1 / 255, rel_tol=1e-4):
        raise _refusal(path, "rescale_factor", fields.rescale_factor)
    if fields.resample not in PILLOW_FILTERS:
        raise _refusal(path, "resample", fields.resample)
    mean, std = (fields.image_mean, fields.image_std) if fields.do_normalize else ((0, 0, 0), (1, 1, 1))
    same = {"interpolation": PILLOW_FILTERS[fields.resample], "mean": mean, "std": std}
    sizes = fields.size if isinstance(fields.size, dict) else {"shortest_edge": fields.size}
    side = sizes.get("shortest_edge")
    is_convnext = (fields.image_processor_type or fields.feature_extractor_type).startswith("ConvNext")
    if side is None:
        if sizes.keys() != {"height", "width"} or fields.do_center_crop or is_convnext:
            raise _refusal(path, "size", fields.size)
        height, width = sizes["height"], sizes["width"]
        return _preprocessing(path, crop=height if height == width else (height, width), fit="squash", **same)
    if is_convnext:
        if side >= CONVNEXT_SQUASHES_FROM:
            return _preprocessing(path, crop=side, fit="squash", **same)
        resize, crop = int(side / fields.crop_pct), side
    else:
        if not fields.do_center_crop:
            raise _refusal(path, "do_center_crop", fields.do_center_crop)
        crops = fields.crop_size if isinstance(fields.crop_size, dict) else {"height": fields.crop_size}
        sides = {crops.get("height"), crops.get("width", crops.get("height"))}
        if len(sides) > 1 or (given := sides.pop()) is None:
            raise _refusal(path, "crop_size", fields.crop_size)
        resize, crop = side, given
    return _preprocessing(path, resize=resize, crop=crop, **same)


def parse(fields: type[Fields], content: Mapping[str, Any], path: Path) -> Fields:
    """The fields in a file's content; null is as good as absent.

    Raises:
        InputError: a field is invalid, or missing.
    """
    try:
        return fields.model_validate({name: value for name, value in content.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} has an invalid {field} ({first['msg']}): correct it, or move the file away"
        ) from error


def _preprocessing(path: Path, **fields: object) -> Preprocessing:
    try:
        return Preprocessing.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{field}: " for field in first["loc"])
        fault = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path} has preprocessing that is not valid ({place}{fault}): correct it") from error


def _refusal(path: Path, field: str, value: object) -> InputError:
    return InputError(
        f"{path} asks for {field} {value}, which is not supported: models here resize an image and cut out the centre, "
        "squash it or letterbox it, and normalise. Train the network so, or move the file away to load the weights "
        "without it"
    )
