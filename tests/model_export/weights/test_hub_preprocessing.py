"""Preprocessing as timm and transformers write it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from model_export.errors import InputError
from model_export.weights.hub_preprocessing import timm_preprocessing, transformers_preprocessing
from service.runtime.preprocessing import Preprocessing

PATH = Path("folder") / "config.json"

HALF = [0.5, 0.5, 0.5]
SMALLER = {"size": {"shortest_edge": 192}, "crop_pct": 0.8}

# preprocessor_config.json of microsoft/resnet-50, and of a network prepared with transformers' BitImageProcessor.
CONVNEXT = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
BIT = {
    "image_processor_type": "BitImageProcessor",
    "image_mean": HALF,
    "image_std": HALF,
    "resample": 2,
    "size": {"shortest_edge": 232},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "rescale_factor": 0.00392156862745098,
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Preprocessing(interpolation="bicubic")),
        ({"crop_pct": 0.95, "interpolation": "bicubic"}, Preprocessing(resize=235, interpolation="bicubic")),
        ({"crop_pct": None, "crop_mode": None, "interpolation": "bilinear"}, Preprocessing()),
        (
            {"input_size": [3, 160, 160], "crop_pct": 1.0, "interpolation": "lanczos", "mean": HALF, "std": HALF},
            Preprocessing(resize=160, crop=160, interpolation="lanczos", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
    ],
)  # fmt: skip
def test_timms_fields(fields: dict[str, Any], expected: Preprocessing) -> None:
    assert timm_preprocessing(fields, PATH) == expected


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("crop_mode", "corners", "asks for crop_mode corners, which is not supported"),
        ("crop_mode", "squash", "asks for crop_mode squash with crop_pct 0.875"),
        ("interpolation", "nearest", "asks for interpolation nearest"),
        ("interpolation", "random", "asks for interpolation random"),
        ("input_size", [3, 224, 320], "asks for input_size [3, 224, 320]"),
        ("input_size", [1, 224, 224], "asks for input_size [1, 224, 224]"),
        ("input_size", 224, "has an invalid input_size"),
        ("crop_pct", 0, "has an invalid crop_pct"),
        ("crop_pct", 1.1, "has an invalid crop_pct"),
        ("crop_pct", float("nan"), "has an invalid crop_pct"),
        ("mean", [float("nan")] * 3, "has an invalid mean"),
        ("input_size", [3, 0, 0], "is not valid (resize: Input should be greater than or equal to 1)"),
        ("std", [58.4, 57.1, 57.4], "are for pixels from 0 to 255"),
    ],
)
def test_what_a_card_cannot_express_of_timm(field: str, value: object, fault: str) -> None:
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        timm_preprocessing({field: value}, PATH)
    assert str(caught.value).startswith(str(PATH))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (CONVNEXT, Preprocessing(interpolation="bicubic")),
        (CONVNEXT | SMALLER, Preprocessing(resize=240, crop=192, interpolation="bicubic")),
        (CONVNEXT | {"resample": 1}, Preprocessing(interpolation="lanczos")),
        (CONVNEXT | {"do_normalize": False}, Preprocessing(interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))),
        (BIT, Preprocessing(resize=232, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
        (CONVNEXT | {"size": {"shortest_edge": 384}}, Preprocessing(crop=384, fit="squash", interpolation="bicubic")),
        (
            BIT | {"size": {"height": 192, "width": 224}, "do_center_crop": False},
            Preprocessing(crop=(192, 224), fit="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
        (BIT | {"crop_size": 160}, Preprocessing(resize=232, crop=160, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    ],
)  # fmt: skip
def test_fields_of_transformers(fields: dict[str, Any], expected: Preprocessing) -> None:
    assert transformers_preprocessing(fields, PATH) == expected


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (CONVNEXT | {"size": {"height": 224, "width": 224}}, "asks for size {'height': 224, 'width': 224}"),
        (CONVNEXT | {"resample": 0}, "asks for resample 0"),
        (CONVNEXT | {"do_resize": False}, "asks for do_resize False"),
        (CONVNEXT | {"do_rescale": False}, "asks for do_rescale False"),
        (CONVNEXT | {"rescale_factor": 1 / 127.5}, "asks for rescale_factor 0.00784"),
        (BIT | {"do_center_crop": False}, "asks for do_center_crop False"),
        (BIT | {"crop_size": {"height": 224, "width": 192}}, "asks for crop_size {'height': 224, 'width': 192}"),
        (BIT | {"crop_size": None}, "asks for crop_size None"),
        (BIT | {"crop_size": 256}, "crop 256 is larger than the resized shorter side 232"),
        ({"size": 224}, "has an invalid resample (Field required)"),
        (CONVNEXT | {"image_mean": [0.5]}, "has an invalid image_mean"),
    ],
)
def test_what_a_card_cannot_express_of_transformers(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        transformers_preprocessing(fields, PATH)
    assert "--" not in str(caught.value)  # the options are those of one command, the file may be read by any


@pytest.mark.parametrize(
    ("crop_mode", "fit", "fill"), [("squash", "squash", (0, 0, 0)), ("border", "letterbox", (124, 116, 104))]
)
def test_what_timm_does_with_whole_images(crop_mode: str, fit: str, fill: tuple[int, int, int]) -> None:
    """Borders have the mean colour, and sizes need not be square."""
    found = timm_preprocessing({"crop_mode": crop_mode, "crop_pct": 1.0, "input_size": [3, 192, 320]}, PATH)
    assert (found.fit, found.fill, found.shape) == (fit, fill, (3, 192, 320))
