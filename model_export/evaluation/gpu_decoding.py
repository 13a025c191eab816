"""How a model's answers change if the GPU decodes the images instead of the processor."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.errors import InputError
from service.runtime.engine import Engine
from service.runtime.faults import ImageFault
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg, encoded
from service.runtime.images.headers import read_header
from service.runtime.preprocessing import Preprocessing

BATCH = 64
JPEG_SUFFIXES = (".jpg", ".jpeg")
MAX_PIXELS = 64_000_000  # as the service's default


class Agreement(NamedTuple):
    """Attributes:
    images: all that were compared.
    decoded: of these, those that the GPU decoded; the processor decodes the others in both cases.
    same: of these, those with the same best class either way.
    """

    images: int
    decoded: int
    same: int


def compare_decoding(engine: Engine, preprocessing: Preprocessing, folder: Path) -> Agreement:
    """Classifies the JPEGs below a folder twice.

    Args:
        engine: one that decodes.

    Raises:
        InputError: there are none, or one is broken.
    """
    images = decoded = same = 0
    batch: list[tuple[EncodedJpeg, np.ndarray]] = []

    def count() -> None:
        nonlocal decoded, same
        by_gpu = engine.infer([jpeg for jpeg, _ in batch])["logits"]
        by_processor = engine.infer([pixels for _, pixels in batch])["logits"]
        good = np.isfinite(by_gpu).all(axis=1)
        decoded += int(good.sum())
        same += int((by_gpu[good].argmax(axis=1) == by_processor[good].argmax(axis=1)).sum())
        batch.clear()

    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in JPEG_SUFFIXES):
        images += 1
        data = path.read_bytes()
        try:
            header = read_header(data, preprocessing, max_pixels=MAX_PIXELS)
            if jpeg := encoded(data, header):
                batch.append((jpeg, decode(data, preprocessing, max_pixels=MAX_PIXELS, header=header).pixels))
        except ImageFault as fault:
            raise InputError(f"{path}: {fault}") from fault
        if len(batch) == BATCH:
            count()
    if batch:
        count()
    if not images:
        raise InputError(f"{folder} has no JPEGs: give a folder with files named *.jpg or *.jpeg")
    return Agreement(images, decoded, same)
