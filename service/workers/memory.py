"""The memory that the engine process shares with its workers.

It has neither name nor file: a descriptor (Linux's memfd) is handed on, and the memory is freed with the last process
that holds it. A container's small /dev/shm does not limit it. Pages take memory only once they are written.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from service.runtime.graph import Output
from service.runtime.scores import TopK

ABSENT, CAUGHT_UP, LOADED = -1, 0, 1


class Layout(NamedTuple):
    """What lies where: first the numbers that all processes read, then `slots` slots for each worker in turn."""

    workers: int
    models: int  # most that are loaded at a time
    slots: int
    pixel_bytes: int  # of the largest input
    classes: int  # of the model with the most
    jpeg_bytes: int = 0  # of the largest JPEG that is handed over; 0 for none
    output_numbers: int = 0  # of all outputs of the graph together, for one image of the model with the most

    @property
    def numbers_bytes(self) -> int:
        return _whole_pages(8 * (self.workers * self.models + self.models + 2 * self.workers + 1))

    @property
    def top_at(self) -> int:
        """Where in a slot the prediction begins, in bytes."""
        return -(-max(self.pixel_bytes, self.jpeg_bytes) // 8) * 8

    @property
    def outputs_at(self) -> int:
        """Where in a slot the outputs of the graph begin, in bytes."""
        return self.top_at + 8 * self.classes

    @property
    def slot_bytes(self) -> int:
        """Pixels of one byte each, or a JPEG; then four bytes each for the class id and the probability of every class,
        and for every number of the outputs.
        """
        return _whole_pages(self.outputs_at + 4 * self.output_numbers)

    @property
    def bytes(self) -> int:
        return self.numbers_bytes + self.workers * self.slots * self.slot_bytes


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class MemoryNotShared(Exception):
    """Memory cannot be shared; the message names the remedy."""


class SharedMemory:
    """Attributes:
    fd: the descriptor, for other processes.
    unanswered: int64 (workers, models), images that the engine process has. A worker writes only its own row.
    per_second: float64 (models,), how fast images leave. Written by the engine process.
    progress: int64 (workers,): ABSENT until a worker may listen, then CAUGHT_UP, then LOADED with all models.
    beats: int64 (workers + 1,), counted up by each process while its event loop turns, 0 for a worker whose loop
        has ended; last, the engine process's.
    """

    def __init__(self, layout: Layout, fd: int) -> None:
        self.layout = layout
        self.fd = fd
        self._map = mmap.mmap(fd, layout.bytes)
        self.unanswered = np.frombuffer(self._map, np.int64, layout.workers * layout.models).reshape(layout.workers, -1)
        self.per_second = np.frombuffer(self._map, np.float64, layout.models, offset=self.unanswered.nbytes)
        offset = self.unanswered.nbytes + self.per_second.nbytes
        self.progress = np.frombuffer(self._map, np.int64, layout.workers, offset=offset)
        self.beats = np.frombuffer(self._map, np.int64, layout.workers + 1, offset=offset + self.progress.nbytes)
        # Views of all slots, made once: to make them anew for each image would take longer than all else that the
        # engine process does for it.
        count = layout.workers * layout.slots
        slots = np.frombuffer(self._map, np.uint8, count * layout.slot_bytes, layout.numbers_bytes)
        self._slots = slots.reshape(count, layout.slot_bytes)
        top = self._slots[:, layout.top_at : layout.outputs_at].view(np.int32)
        self._class_ids, self._probabilities = top[:, : layout.classes], top[:, layout.classes :].view(np.float32)
        self._outputs = self._slots[:, layout.outputs_at : layout.outputs_at + 4 * layout.output_numbers].view(
            np.float32
        )

    @classmethod
    def create(cls, layout: Layout) -> SharedMemory:
        """Raises MemoryNotShared."""
        fd = os.memfd_create("resnet-service")
        try:
            os.ftruncate(fd, layout.bytes)
            memory = cls(layout, fd)
        except (OSError, OverflowError) as error:
            os.close(fd)
            raise MemoryNotShared(
                f"{layout.bytes:,} bytes of memory cannot be shared ({error}): lower workers"
            ) from error
        memory.progress[:] = ABSENT
        return memory

    def slots_of(self, worker: int) -> range:
        """The slots that a worker may use."""
        return range(worker * self.layout.slots, (worker + 1) * self.layout.slots)

    def pixels(self, slot: int, shape: tuple[int, int, int]) -> np.ndarray:
        """uint8 of this shape, written by the worker and read by the engine."""
        return self._slots[slot, : math.prod(shape)].reshape(shape)

    def jpeg(self, slot: int, size: int) -> np.ndarray:
        """A JPEG: uint8 `(size,)`, written by the worker and read by the engine."""
        return self._slots[slot, :size]

    def top(self, slot: int, k: int) -> TopK:
        """int32 and float32 `(k,)`, written by the engine and read by the worker."""
        return TopK(self._class_ids[slot, :k], self._probabilities[slot, :k])

    def outputs(self, slot: int, shapes: Mapping[Output, tuple[int, ...]]) -> dict[Output, np.ndarray]:
        """float32 of these shapes, written by the engine and read by the worker. Each has its own place."""
        arrays: dict[Output, np.ndarray] = {}
        start = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            arrays[name] = self._outputs[slot, start : start + size].reshape(shape)
            start += size
        return arrays
