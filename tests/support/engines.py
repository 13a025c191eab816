"""Makes engines wait, fail, or record their batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from service.backend import Runner
from service.local_runner import LocalRunner
from service.runtime.engine import Engine, Image, Images
from service.runtime.graph import Output
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.preprocessing import Preprocessing


def hold(engine: Engine) -> threading.Event:
    """From now on the engine waits for this event before each batch."""
    gate, infer = threading.Event(), engine.infer

    def held(images: Images, **options: Any) -> object:
        assert gate.wait(30)
        return infer(images, **options)

    engine.infer = held  # type: ignore[method-assign, assignment]
    return gate


def queued(runner: Runner) -> int:
    """Images that wait for a `LocalRunner`'s engine."""
    assert isinstance(runner, LocalRunner)
    return len(runner._batcher._queue)


@contextmanager
def failing(engine: Engine, message: str) -> Iterator[None]:
    """Within the context, every batch raises RuntimeError."""
    infer = engine.infer

    def fail(images: Images, **options: Any) -> None:
        raise RuntimeError(message)

    engine.infer = fail  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        engine.infer = infer  # type: ignore[method-assign]


def decodes(engine: Engine, preprocessing: Preprocessing, fails: Callable[[], bool] = lambda: False) -> list[Image]:
    """From now on the engine takes JPEGs, too, as one on a GPU does. Returns a list of all images that it gets.

    Args:
        fails: whether it cannot decode the next JPEG.
    """
    engine.info = engine.info._replace(decodes=True)
    taken: list[Image] = []
    infer = engine.infer

    def decoding(images: Images, **options: Any) -> dict[Output, np.ndarray]:
        # copies: their memory may be that of the next image once they are answered
        taken.extend(each._replace(data=bytes(each.data)) if isinstance(each, EncodedJpeg) else each for each in images)
        arrays, lost = [], []
        for image in images:
            lost.append(isinstance(image, EncodedJpeg) and fails())
            if isinstance(image, EncodedJpeg):
                image = decode(bytes(image.data), preprocessing, max_pixels=10**9).pixels
            arrays.append(image)
        found = infer(arrays, **options)
        for values in found.values():
            values[lost] = np.nan
        return found

    engine.infer = decoding  # type: ignore[method-assign, assignment]
    return taken


def record_sizes(engine: Engine) -> list[int]:
    """A list to which the engine appends the size of each batch from now on."""
    sizes: list[int] = []
    infer = engine.infer

    def recorded(images: Images, **options: Any) -> object:
        sizes.append(len(images))
        return infer(images, **options)

    engine.infer = recorded  # type: ignore[method-assign, assignment]
    return sizes
