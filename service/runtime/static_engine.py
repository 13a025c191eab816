"""The engine for GPUs: one session for each of a few batch sizes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from service.runtime.engine import Engine, EngineInfo, Images
from service.runtime.graph import INPUT, Output
from service.runtime.providers import Session

# How often a batch size is timed; the fastest run counts.
TIMED_RUNS = 3


class StaticEngine(Engine):
    """A session for each of `info.batch_sizes`; batches in between are padded up to the next size.

    With CUDA, a convolution keeps the cuDNN plan of one input shape, so every change of the batch size rebuilds all
    plans, which takes as long as many batches (onnxruntime issue #23006).
    """

    def __init__(self, info: EngineInfo, open_size: Callable[[int], Session]) -> None:
        """
        Args:
            open_size: opens the session that runs one batch size.
        """
        super().__init__(info)
        self._open = open_size
        self._sessions: dict[int, Session] = {}
        self._opening = threading.Lock()
        self._seconds: dict[int, float] = {}
        self._buffers = threading.local()  # a thread runs one batch at a time

    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        sizes = self.info.batch_sizes
        parts = []
        for start in range(0, len(images), sizes[-1]):
            part = images[start : start + sizes[-1]]
            size = next(size for size in sizes if size >= len(part))
            parts.append(self._run(size, part, outputs))
        return dict(zip(outputs, map(np.concatenate, zip(*parts, strict=True)), strict=True))

    def warm_up(self) -> None:
        """Also opens the sessions, and times them."""
        for size in self.info.batch_sizes:
            black = self._black(size)
            self._run(size, black, ("logits",))
            seconds = []
            for _ in range(TIMED_RUNS):
                started = time.perf_counter()
                self._run(size, black, ("logits",))
                seconds.append(time.perf_counter() - started)
            self._seconds[size] = min(seconds)

    def prepare_thread(self) -> None:
        """ONNX Runtime creates a CUDA stream and handles of cuDNN and cuBLAS for each session on each thread."""
        for size in self.info.batch_sizes:
            self._run(size, self._black(size), ("logits",))

    @property
    def seconds(self) -> dict[int, float]:
        sizes, tuned = self.info.batch_sizes, self.info.tuned
        if tuned and set(sizes) <= set(tuned.tuning.best.images_per_second):
            # Measured with all lanes busy, as under the load that batches are split for.
            rates = tuned.tuning.best.images_per_second
            return {size: size / rates[size] for size in sizes}
        return dict(self._seconds)

    def logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        logits = []
        for size in self.info.batch_sizes:
            parts = [images[start : start + size] for start in range(0, len(images), size)]
            logits.append(np.concatenate([self._run(size, part, ("logits",))[0] for part in parts]))
        return logits

    def _run(self, size: int, images: Images, outputs: Sequence[Output]) -> list[np.ndarray]:
        """Runs up to `size` images in the session of that size, and drops the padding from the outputs."""
        session = self._session(size).ort
        buffers: dict[int, np.ndarray] = self._buffers.__dict__.setdefault("by_size", {})
        if size not in buffers:
            buffers[size] = self._black(size)
        np.stack(list(images), out=buffers[size][: len(images)])
        return [output[: len(images)] for output in session.run(list(outputs), {INPUT: buffers[size]})]

    def _black(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._session(size).ort.get_inputs()[0].shape[1:]), np.uint8)

    def _session(self, size: int) -> Session:
        with self._opening:
            if size not in self._sessions:
                self._sessions[size] = self._open(size)
            return self._sessions[size]
