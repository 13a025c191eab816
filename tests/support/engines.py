"""Makes engines wait, fail, or record their batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.runtime.engine import Engine, Images


def hold(engine: Engine) -> threading.Event:
    """From now on the engine waits for this event before each batch."""
    gate, infer = threading.Event(), engine.infer

    def held(images: Images, **options: Any) -> object:
        assert gate.wait(30)
        return infer(images, **options)

    engine.infer = held  # type: ignore[method-assign, assignment]
    return gate


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


def record_sizes(engine: Engine) -> list[int]:
    """A list to which the engine appends the size of each batch from now on."""
    sizes: list[int] = []
    infer = engine.infer

    def recorded(images: Images, **options: Any) -> object:
        sizes.append(len(images))
        return infer(images, **options)

    engine.infer = recorded  # type: ignore[method-assign, assignment]
    return sizes
