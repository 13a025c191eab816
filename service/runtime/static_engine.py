"""The engine for GPUs: one session for each of a few batch sizes."""

from __future__ import annotations

import functools
import io
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import onnxruntime as ort
import PIL.Image

from service.runtime.engine import Engine, EngineInfo, Images
from service.runtime.gpu.decoding import GpuDecoder
from service.runtime.gpu.memory import page_locked
from service.runtime.graph import INPUT, Output
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.providers import ProviderUnavailable, Session

Result = TypeVar("Result")

# How often a batch size is timed; the fastest run counts.
TIMED_RUNS = 3


class StaticEngine(Engine):
    """A session for each of `info.batch_sizes`; batches in between are padded up to the next size.

    With CUDA, a convolution keeps the cuDNN plan of one input shape, so every change of the batch size rebuilds all
    plans, which takes as long as many batches (onnxruntime issue #23006).
    """

    def __init__(
        self,
        info: EngineInfo,
        open_size: Callable[[int], Session],
        new_decoder: Callable[[], GpuDecoder] | None = None,
        gpu: int = 0,
    ) -> None:
        """
        Args:
            open_size: opens the session that runs one batch size.
            new_decoder: makes a thread's decoder, if the engine takes JPEGs, too.
            gpu: the number of the GPU.
        """
        super().__init__(info)
        self._open = open_size
        self._new_decoder = new_decoder
        self._gpu = gpu
        self._sessions: dict[int, Session] = {}
        self._opening = {size: threading.Lock() for size in info.batch_sizes}
        self._seconds: dict[int, float] = {}
        self._lane = threading.local()  # a thread runs one batch at a time

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
        """Also opens the sessions, and times them. Raises what `open_size` and `new_decoder` raise.

        The first run of a session takes seconds, in which cuDNN compiles on one core: all sizes run it at once. On
        threads that end, because a thread that has run a session keeps memory of the GPU.
        """
        with ThreadPoolExecutor(len(self.info.batch_sizes), thread_name_prefix="opening") as pool:
            list(pool.map(self._run_once, self.info.batch_sizes))
        _on_a_thread(self._time)

    def _run_once(self, size: int) -> None:
        self._run(size, self._black(size), ("logits",))

    def _time(self) -> None:
        for size in self.info.batch_sizes:
            seconds = []
            for _ in range(TIMED_RUNS):
                started = time.perf_counter()
                self._run_once(size)
                seconds.append(time.perf_counter() - started)
            self._seconds[size] = min(seconds)
        self._prove_decoding()

    def prepare_thread(self) -> None:
        """ONNX Runtime creates a CUDA stream and handles of cuDNN and cuBLAS for each session on each thread."""
        for size in self.info.batch_sizes:
            self._run_once(size)
        self._prove_decoding()

    def _prove_decoding(self) -> None:
        """Decodes a JPEG in a batch of each size, if the engine takes JPEGs: so no request pays for the beginning.

        Raises:
            ProviderUnavailable: it is not decoded.
        """
        if self._new_decoder is None:
            return
        file = io.BytesIO()
        PIL.Image.new("RGB", (64, 64)).save(file, "JPEG")
        for size in self.info.batch_sizes:
            (logits,) = self._run(size, [EncodedJpeg(file.getvalue(), 64, 64)], ("logits",))
            if not np.isfinite(logits).all():
                raise ProviderUnavailable("the GPU does not decode a plain JPEG: turn `gpu_decoding` off")

    @property
    def seconds(self) -> dict[int, float]:
        sizes, tuned = self.info.batch_sizes, self.info.tuned
        if tuned and set(sizes) <= set(tuned.tuning.best.images_per_second):
            # Measured with all lanes busy, as under the load that batches are split for.
            rates = tuned.tuning.best.images_per_second
            return {size: size / rates[size] for size in sizes}
        return dict(self._seconds)

    def logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        return _on_a_thread(functools.partial(self._logits_by_path, images))

    def _logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        logits = []
        for size in self.info.batch_sizes:
            parts = [images[start : start + size] for start in range(0, len(images), size)]
            logits.append(np.concatenate([self._run(size, part, ("logits",))[0] for part in parts]))
        return logits

    def _run(self, size: int, images: Images, outputs: Sequence[Output]) -> list[np.ndarray]:
        """Runs up to `size` images in the session of that size, and drops the padding from the outputs."""
        batch = self._batch(size)
        jpegs: dict[int, EncodedJpeg] = {}
        for row, image in enumerate(images):
            if isinstance(image, EncodedJpeg):
                jpegs[row] = image
            else:
                batch.images[row] = image
        if not jpegs:
            found = batch.run(outputs)
            return [output[: len(images)] for output in found]
        # Decoding writes to the GPU, behind the images that are copied there.
        on_device = batch.upload()
        row_bytes = batch.images[0].nbytes
        results = [on_device.data_ptr() + row * row_bytes for row in jpegs]
        decoded = self._decoder().decode(list(jpegs.values()), results)
        found = [np.array(output[: len(images)]) for output in batch.run(outputs, on_device)]
        for row, good in zip(jpegs, decoded, strict=True):
            if not good:
                for output in found:
                    output[row] = np.nan
        return found

    def _black(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._session(size).ort.get_inputs()[0].shape[1:]), np.uint8)

    def _batch(self, size: int) -> _Batch:
        """The calling thread's batch of this size."""
        batches: dict[int, _Batch] = self._lane.__dict__.setdefault("batches", {})
        if size not in batches:
            batches[size] = _Batch(self._session(size), self._gpu)
        return batches[size]

    def _decoder(self) -> GpuDecoder:
        """The calling thread's decoder."""
        if "decoder" not in self._lane.__dict__:
            if self._new_decoder is None:
                raise TypeError("this engine takes decoded images only")
            self._lane.decoder = self._new_decoder()
        decoder: GpuDecoder = self._lane.decoder
        return decoder

    def _session(self, size: int) -> Session:
        with self._opening[size]:
            if size not in self._sessions:
                self._sessions[size] = self._open(size)
            return self._sessions[size]


def _on_a_thread(call: Callable[[], Result]) -> Result:
    """Calls a function on a thread that ends with it: see `StaticEngine.warm_up`."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


class _Batch:
    """The memory of one thread's batches of one size.

    Attributes:
        images: uint8 `(size, channels, height, width)`, in memory that the GPU reads by itself.
    """

    def __init__(self, session: Session, gpu: int) -> None:
        self._ort = session.ort
        self._gpu = gpu
        self._shape = session.ort.get_inputs()[0].shape
        self._device = "cuda" if session.provider == "cuda" else "cpu"
        self._on_device: ort.OrtValue | None = None
        self.images = page_locked(self._shape, gpu) if self._device == "cuda" else np.zeros(self._shape, np.uint8)

    def run(self, outputs: Sequence[Output], on_device: ort.OrtValue | None = None) -> list[np.ndarray]:
        """Runs the images, or those that `upload` returned."""
        if on_device is None:
            return list(self._ort.run(list(outputs), {INPUT: self.images}))
        binding = self._ort.io_binding()
        binding.bind_ortvalue_input(INPUT, on_device)
        for output in outputs:
            binding.bind_output(output)
        self._ort.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def upload(self) -> ort.OrtValue:
        """Copies the images to the GPU. Takes memory there at the first call."""
        if self._on_device is None:
            self._on_device = ort.OrtValue.ortvalue_from_shape_and_type(self._shape, np.uint8, self._device, self._gpu)
        self._on_device.update_inplace(self.images)
        return self._on_device
