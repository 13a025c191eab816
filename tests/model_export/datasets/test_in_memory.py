from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from model_export.datasets.drawings import Drawings
from model_export.datasets.image_folder import open_images
from model_export.datasets.in_memory import InMemory
from model_export.drawings.pictures import STYLES
from model_export.errors import InputError

SMALL = STYLES["standard"].square(32)


def test_a_data_set_is_decoded_once(caplog: pytest.LogCaptureFixture) -> None:
    drawn = Drawings(seed=1, count=40, style=SMALL)
    with caplog.at_level(logging.INFO):
        held = InMemory.of(drawn)
    assert held.images.dtype == torch.uint8
    assert held.images.shape == (40, 32, 32, 3)
    assert (held.classes, held.name, len(held)) == (drawn.classes, drawn.name, 40)
    assert np.array_equal(held.labels, drawn.labels)
    assert all(held.image(i).tobytes() == drawn.image(i).tobytes() for i in range(40))
    assert f"{drawn.name}: decoding: 40 of 40 pictures" in caplog.text


def test_progress_can_be_hidden(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        InMemory.of(Drawings(seed=1, count=3, style=SMALL), shown=False)
    assert not caplog.text


def test_files_keep_every_pixel() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8))
    held = InMemory("noise", ("a", "b"), images, np.array([0, 1, 0]))
    with Image.open(io.BytesIO(held.read(2))) as image:
        assert image.format == "PNG"
        assert image.size == (7, 5)
        assert np.array_equal(np.asarray(image), images[2].numpy())
    assert held.image(2).mode == "RGB"
    assert held.title(2) == "noise, number 2"


def test_sizes_that_differ(tmp_path: Path) -> None:
    for name, size in (("a/0.png", (8, 8)), ("a/1.png", (8, 8)), ("b/0.png", (8, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(InputError) as refusal:
        InMemory.of(open_images(tmp_path))
    for part in (f"{tmp_path}/a/0.png has 8x8", f"{tmp_path}/b/0.png 8x9", "resize them"):
        assert part in str(refusal.value)


class Addresses:
    """Where a worker finds the pixels, and what they are."""

    def __init__(self, held: InMemory) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> tuple[bool, int]:
        return self.held.images.is_shared(), int(self.held.images[index].sum())


def test_workers_share_the_pixels() -> None:
    images = torch.arange(4 * 12, dtype=torch.uint8).reshape(4, 2, 2, 3)
    loader = DataLoader(
        Addresses(InMemory("counted", ("a", "b"), images, np.zeros(4, np.int64))),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [tuple(found) for found in loader] == [(True, int(images[i].sum())) for i in range(4)]
