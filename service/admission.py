"""What may be in the service at once: every request holds a permit until its answer."""

from __future__ import annotations

from types import TracebackType

from service.backend import Runner
from service.errors import Overloaded, retry_after_seconds
from service.metrics import Metrics


class Room:
    """The room that one model has for images."""

    def __init__(self, model: str, runner: Runner, metrics: Metrics, max_images: int) -> None:
        self._runner = runner
        self._max_images = max_images
        self._gauge = metrics.queue.labels(model=model)  # looked up once: a label costs as much as counting

    def check(self, images: int = 1) -> None:
        """Raises Overloaded if `images` more do not fit."""
        queued = self._runner.in_service
        if queued + images > self._max_images:
            raise Overloaded(
                queued=queued,
                max_queue=self._max_images,
                retry_after=retry_after_seconds(queued, self._runner.per_second),
            )

    def add(self, images: int) -> None:
        """Counts images in, or out if negative."""
        self._runner.count(images)
        self._gauge.inc(images)


class Permit:
    """What one request holds of the service. A context manager: leaving it gives everything back."""

    def __init__(self, metrics: Metrics) -> None:
        self._body_bytes = metrics.body_bytes
        self._bytes = 0
        self._images: list[tuple[Room, int]] = []

    def reserve_bytes(self, count: int) -> None:
        """Counts the bytes of the body, before it is read."""
        self._bytes += count
        self._body_bytes.inc(count)

    def reserve_images(self, room: Room, count: int) -> None:
        """Counts images in, once the model is known. Raises Overloaded."""
        room.check(count)
        room.add(count)
        self._images.append((room, count))

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._body_bytes.dec(self._bytes)
        for room, count in self._images:
            room.add(-count)
