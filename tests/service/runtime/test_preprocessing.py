from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.runtime.preprocessing import Preprocessing


def test_the_shape_of_the_input() -> None:
    assert Preprocessing().shape == (3, 224, 224)
    assert Preprocessing(crop=(96, 160), channels=1).shape == (1, 96, 160)
    assert Preprocessing.model_validate_json('{"crop": [96, 160]}').shape == (3, 96, 160)


@pytest.mark.parametrize(
    ("fields", "is_classic"),
    [
        ({}, True),
        ({"resize": 64, "crop": 32, "interpolation": "bicubic"}, True),
        ({"crop": (224, 224)}, True),
        ({"crop": (224, 225)}, False),
        ({"fit": "squash"}, False),
        ({"fit": "letterbox"}, False),
        ({"channels": 1}, False),
        ({"window": (0, 4095)}, False),
    ],
)
def test_what_readers_of_schema_1_know(fields: dict[str, object], is_classic: bool) -> None:
    assert Preprocessing.model_validate(fields).is_classic is is_classic


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"crop": (32, 300)}, "crop 300 is larger than the resized shorter side 256"),
        ({"crop": 0}, "greater than or equal to 1"),
        ({"crop": (32, 0)}, "greater than or equal to 1"),
        ({"fit": "stretch"}, "'crop', 'squash' or 'letterbox'"),
        ({"channels": 2}, "1 or 3"),
        ({"fill": (0, 0, 256)}, "less than or equal to 255"),
        ({"window": (100, 100)}, "not two rising values from 0 to 65535"),
        ({"window": (0, 2**16)}, "not two rising values from 0 to 65535"),
        ({"window": (-1, 100)}, "not two rising values from 0 to 65535"),
    ],
)
def test_impossible_preprocessing(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Preprocessing.model_validate(fields)


def test_only_a_crop_is_bound_by_resize() -> None:
    for fit in ("squash", "letterbox"):
        assert Preprocessing.model_validate({"fit": fit, "crop": (512, 300)}).shape == (3, 512, 300)
