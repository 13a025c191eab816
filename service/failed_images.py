"""Keeps images whose answer failed through the service's fault, so that the cause can be found without the client."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from service import request_ids
from service.errors import ComputationFailed, InternalError
from service.model_repository import Model
from service.runtime.images.preview import to_png

log = logging.getLogger(__name__)

MOST_IMAGES = 100
MOST_BYTES = 256 * 2**20


class FailedImages:
    """A folder of the newest such images, `MOST_IMAGES` and `MOST_BYTES` at most.

    An image is a file `TIME-REQUEST_ID-NUMBER.image`, beside a `.json` that says what became of it. Only this user can
    read them. What fails while others are being written is not kept: a service whose every answer fails must not get
    slower by it.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder`: None keeps nothing."""
        self._folder = folder
        self._writing: asyncio.Future[None] | None = None

    def keep_of(self, images: Sequence[bytes | np.ndarray], answers: Sequence[object], model: Model) -> None:
        """Keeps those images of the current request on which the service failed. On the event loop.

        What failed for want of time or room would not fail again, and is not kept.

        Args:
            answers: for each image, its answer or its fault.
        """
        found = [
            (number, image)
            for number, (image, answer) in enumerate(zip(images, answers, strict=True))
            if isinstance(answer, ComputationFailed | InternalError)
        ]
        self.keep(found, {"model": model.name, "version": model.version, "images": len(answers)})

    def keep(self, images: Sequence[tuple[int, bytes | np.ndarray]], facts: Mapping[str, object]) -> None:
        """Begins to write images of the current request. On the event loop.

        Args:
            images: their numbers in the request, and their files, or pixels, which become a PNG.
            facts: what the `.json` files say.
        """
        if self._folder is None or not images or (self._writing and not self._writing.done()):
            return
        stem = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{request_ids.current()}"
        facts = {"request_id": request_ids.current(), **facts}
        self._writing = asyncio.ensure_future(asyncio.to_thread(_keep, self._folder, stem, images, facts))


def _keep(
    folder: Path, stem: str, images: Sequence[tuple[int, bytes | np.ndarray]], facts: Mapping[str, object]
) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, image in images:
            data = image if isinstance(image, bytes) else to_png(image)
            if len(data) > MOST_BYTES:
                continue
            _make_room(folder, len(data))
            description = json.dumps({**facts, "number": number, "bytes": len(data)}, indent=1, default=str)
            _write(folder / f"{stem}-{number}.json", description.encode())
            _write(folder / f"{stem}-{number}.image", data)
    except OSError as error:
        log.error("an image that failed could not be kept in %s: %s", folder, error)
    else:
        log.info("%d of the images that failed kept as %s-*", len(images), folder / stem)


def _make_room(folder: Path, size: int) -> None:
    """Removes the oldest images until another fits. Several processes may do so at a time."""
    kept: list[tuple[Path, int]] = []
    for path in sorted(folder.glob("*.image")):  # their names begin with the time
        with suppress(FileNotFoundError):
            kept.append((path, path.stat().st_size))
    while kept and (len(kept) >= MOST_IMAGES or sum(own for _, own in kept) + size > MOST_BYTES):
        path, _ = kept.pop(0)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(f"{path.suffix}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    draft.replace(path)
