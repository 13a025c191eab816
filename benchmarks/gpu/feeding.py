"""Images/s that a core and the GPU decode, and how the GPU's pixels and classes differ.

A GPU computes more images than the cores of its host can decode, so JPEGs may be decoded on the GPU.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.http import decode_rate
from benchmarks.gpu.nvjpeg import NvjpegDecoder
from benchmarks.gpu.plan import Plan, Report, fault, held_out_jpegs, per_second, trained_folder
from benchmarks.photo import photo
from service.runtime.gpu.decoding import GpuDecoder
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg, encoded
from service.runtime.images.headers import read_header
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing

BATCHES = (1, 8, 64)
MAX_PIXELS = 10**9


def run(plan: Plan, report: Report) -> None:
    """Measures rates, and agreement with the service's decoding of the same JPEGs.

    Raises:
        ProviderUnavailable: the GPU does not decode.
    """
    jpeg = photo()
    folder = trained_folder()
    card = read_card(folder)
    one_core = decode_rate(jpeg, card.preprocessing, plan.seconds)
    report.add("decoding", {"by": "the processor, one core", "images/s": one_core})
    if plan.device == "cpu":
        return
    from model_export.evaluation.gpu_decoding import compare_decoding

    uploads = held_out_jpegs(plan)
    for make in (GpuDecoder, NvjpegDecoder):
        row: dict[str, object] = {"by": make.__name__}
        try:
            decoder = make(0, card.preprocessing)
            for size in BATCHES:
                step = OnGpu([jpeg] * size, decoder, card.preprocessing)
                row[f"{size}: images/s"] = size * per_second(step, plan.seconds)
                with busy_thread():
                    row[f"{size}: images/s beside a busy thread"] = size * per_second(step, plan.seconds)
            row |= OnGpu([jpeg, *uploads[: BATCHES[-1] - 1]], decoder, card.preprocessing).compare()
        except Exception as error:  # that one does not run is a result, too
            row["error"] = fault(error)
        report.add("decoding", row)
    engine = load_engine(
        folder, card, provider="cuda", precision=plan.precision, threads=usable_cores(), gpu_decoding=True
    )
    with tempfile.TemporaryDirectory() as pictures:
        for number, upload in enumerate(uploads):
            Path(pictures, f"{number:05}.jpg").write_bytes(upload)
        found = compare_decoding(engine, card.preprocessing, Path(pictures))
    report.add("agreement", {**found._asdict(), "top-1": found.same / found.decoded})


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that runs Python meanwhile and lets go of its lock every 20 microseconds or so, like an event loop."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            sum(range(1000))
            time.sleep(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class OnGpu:
    """Decodes a batch of JPEGs on the GPU at each call."""

    def __init__(
        self, uploads: Sequence[bytes], decoder: GpuDecoder | NvjpegDecoder, preprocessing: Preprocessing
    ) -> None:
        """
        Args:
            uploads: JPEGs that a GPU decodes.
        """
        self._uploads = uploads
        self._decoder = decoder
        self._preprocessing = preprocessing
        crop = preprocessing.height
        self._pixels = ort.OrtValue.ortvalue_from_shape_and_type((len(uploads), 3, crop, crop), np.uint8, "cuda", 0)
        self._results = [self._pixels.data_ptr() + row * 3 * crop**2 for row in range(len(uploads))]
        headers = [read_header(upload, preprocessing, max_pixels=MAX_PIXELS) for upload in uploads]
        jpegs = [encoded(upload, header) for upload, header in zip(uploads, headers, strict=True)]
        self._jpegs: list[EncodedJpeg] = [jpeg for jpeg in jpegs if jpeg]

    def __call__(self) -> None:
        self._decoder.decode(self._jpegs, self._results)

    def compare(self) -> dict[str, float]:
        """How far the resized pixels are from the processor's, in grey levels."""
        self()
        ours = [decode(upload, self._preprocessing, max_pixels=MAX_PIXELS).pixels for upload in self._uploads]
        off = np.abs(self._pixels.numpy().astype(np.int16) - np.stack(ours))
        return {"images": len(ours), "mean": float(off.mean()), "largest": float(off.max())}
