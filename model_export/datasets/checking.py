"""Decodes every image of a data set once: a broken one is reported now, not in the middle of a training."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import numpy as np

from model_export.datasets.base import MAX_PIXELS, describe_fault
from model_export.datasets.display_names import printable
from model_export.errors import InputError, shortlist
from service.runtime.faults import ImageFault
from service.runtime.images.decoding import load_pixels, open_image
from service.runtime.machine import usable_cores
from service.runtime.progress import Progress

logger = logging.getLogger(__name__)

OnBroken = Literal["refuse", "skip"]


def check_images(
    name: str, root: Path, paths: Sequence[Path], broken: OnBroken, *, shown: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Reads each file once, to decode it and for its digest.

    Args:
        name: of the data set, for the progress.
        root: the folder that holds the images, for messages.
        broken: whether a broken image is an error, or left out with a warning.

    Returns:
        Indices of the whole images, int64 (n,), and the SHA-256 of each of them, uint8 (n, 32).

    Raises:
        InputError: an image is broken, and `broken` is "refuse".
    """
    whole: list[int] = []
    digests = bytearray()
    faults = []
    with (
        ThreadPool(usable_cores()) as pool,
        Progress(f"{name}: checking", len(paths), unit="image", shown=shown) as progress,
    ):
        for index, (digest, fault) in enumerate(pool.imap(_check, paths, chunksize=16)):
            if fault is None:
                whole.append(index)
                digests += digest
            else:
                faults.append(f"{printable(paths[index])} ({fault})")
            progress.advance()
    if faults and broken == "refuse":
        raise InputError(
            f"{len(faults)} of the {len(paths)} images in {printable(root)} cannot be used: "
            f"{shortlist(faults)}: replace them, or leave them out with `--ignore NAME` (`train` and `evaluate` "
            "also have `--broken skip`)"
        )
    for fault in faults:
        logger.warning("left out: %s", fault)
    per_file = np.frombuffer(bytes(digests), np.uint8).reshape(-1, hashlib.sha256().digest_size)
    return np.array(whole, dtype=np.int64), per_file


def _check(path: Path) -> tuple[bytes, str | None]:
    """The SHA-256 of an image file, and what is wrong with it: None if it can be decoded."""
    digest = b""
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        opened = open_image(data, MAX_PIXELS)
        # A JPEG is read to its end at any scale, and decodes much faster at an eighth.
        opened.image.draft(None, (1, 1))
        load_pixels(opened)
    except (ImageFault, OSError) as error:
        return digest, describe_fault(error)
    return digest, None
