from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from model_export.datasets.drawings import Drawings, open_drawings
from model_export.drawings.pictures import CLASSES, STYLES, picture
from model_export.errors import InputError

SMALL = STYLES["easy"].square(32)


def test_they_are_the_pictures_of_the_series() -> None:
    dataset = Drawings(seed=3, count=20, first=7, style=SMALL)
    assert len(dataset) == 20
    assert dataset.classes == CLASSES
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [(7 + i) % 12 for i in range(20)]
    assert [dataset.read(i) for i in range(20)] == [picture(3, 7 + i, SMALL) for i in range(20)]
    assert dataset.title(2) == "drawing 9 (seed 3)"


def test_an_image_is_what_was_read() -> None:
    dataset = Drawings(seed=0, count=2)
    with Image.open(io.BytesIO(dataset.read(1))) as image:
        assert dataset.image(1) == image.convert("RGB")
    assert min(dataset.image(0).size) >= 240


def test_chosen_classes_in_the_given_order() -> None:
    chosen = ("ring", "circle")
    dataset = Drawings(seed=1, count=12, classes=chosen, style=SMALL)
    assert dataset.labels.tolist() == [0, 1] * 6
    middles = []
    for i in range(12):  # a ring's middle has the colour of the corner, its ground; a circle's has not
        pixels = np.asarray(dataset.image(i), int)
        bright = np.abs(pixels - pixels[0, 0]).sum(axis=2) > 90
        rows, columns = np.nonzero(bright)
        middles.append(bool(bright[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]))
    assert middles == [False, True] * 6


@pytest.mark.parametrize(
    ("classes", "fault"),
    [
        (("circle", "cube"), "no drawings of cube: choose from circle, triangle"),
        (("circle",), "drawings of circle cannot be told apart: name at least two classes"),
        (("circle", "circle"), "cannot be told apart"),
        ((), "drawings of nothing"),
    ],
)
def test_impossible_classes(classes: tuple[str, ...], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Drawings(seed=0, count=4, classes=classes)


def test_training_and_validation_have_no_picture_in_common() -> None:
    data = open_drawings(train=30, val=10, style=SMALL, seed=5)
    train = {data.train.read(i) for i in range(30)}
    val = {data.val.read(i) for i in range(10)}
    assert len(train) == 30
    assert len(val) == 10
    assert not train & val
    assert data.train.classes == data.val.classes
    assert data.train.name != data.val.name


def test_a_worker_draws_the_same() -> None:
    dataset = Drawings(seed=2, count=5, style=SMALL)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.read(4) == dataset.read(4)
