"""The engine for GPUs, with sessions on the CPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from service.runtime.engine import EngineInfo
from service.runtime.gpu.decoding import GpuDecoder
from service.runtime.graph import OUTPUTS
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.model_folder import read_card
from service.runtime.placement import GPU_SIZES
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable, Session, open_session
from service.runtime.self_test import SelfTest, SelfTestFailed
from service.runtime.static_engine import TIMED_RUNS, StaticEngine
from service.runtime.tuning import Measured, Tuned, Tuning
from tests.service.runtime.engines import Recorded, load, pictures, wrong

pytestmark = pytest.mark.machine


class Static:
    """A `StaticEngine` on the CPU provider, warmed up, that records the batches of its sessions."""

    def __init__(self, folder: Path, batch_sizes: tuple[int, ...] = (1, 8), lanes: int = 1) -> None:
        self.opened: list[int] = []
        self.sessions: dict[int, Recorded] = {}
        self._model = folder / "model.onnx"
        self.engine = StaticEngine(EngineInfo("cuda", "fp32", lanes, batch_sizes), self._open)
        self.engine.warm_up()
        self.warm_up_batches = self.take_batches()

    def _open(self, size: int) -> Session:
        self.opened.append(size)
        session = open_session(self._model, "cpu", threads=1, batch=size)
        self.sessions[size] = Recorded(session)
        return session._replace(ort=self.sessions[size])

    def take_batches(self) -> list[tuple[int, str]]:
        """The sizes and threads of the batches since the last call, by session."""
        batches = [batch for session in self.sessions.values() for batch in session.batches]
        for session in self.sessions.values():
            session.batches.clear()
        return batches


def test_every_batch_size_has_a_session_that_runs_no_other(resnet8: Path) -> None:
    static = Static(resnet8, (1, 8))
    assert static.opened == [1, 8]
    for size, session in static.sessions.items():
        assert session.get_inputs()[0].shape == [size, 3, 32, 32]
    with pytest.raises(Exception, match="Got: 3 Expected: 8"):
        static.sessions[8].run(["logits"], {"image": pictures(3)})


@pytest.mark.parametrize(
    ("images", "batches"),
    [(1, [1]), (2, [8]), (8, [8]), (9, [32]), (45, [64]), (64, [64]), (65, [64, 1]), (150, [64, 64, 32])],
)
def test_batches_in_between_are_padded_and_the_padding_is_dropped(
    resnet8: Path, images: int, batches: list[int]
) -> None:
    static = Static(resnet8, GPU_SIZES)
    outputs = static.engine.infer(pictures(images), OUTPUTS)
    assert sorted((size for size, _ in static.take_batches()), reverse=True) == batches
    expected = load(resnet8).infer(pictures(images), OUTPUTS)
    for output in OUTPUTS:
        np.testing.assert_allclose(outputs[output], expected[output], rtol=1e-4, atol=1e-4)


def test_images_may_be_separate_arrays_and_do_not_leak_into_the_next_batch(resnet8: Path) -> None:
    static = Static(resnet8)
    full = static.engine.infer(list(pictures(8)))["logits"]
    np.testing.assert_array_equal(static.engine.infer(list(pictures(3)))["logits"], full[:3])
    np.testing.assert_array_equal(static.engine.infer(pictures(8)[::-1])["logits"], full[::-1])


def test_a_changing_load_opens_no_further_session(resnet8: Path) -> None:
    static = Static(resnet8, (1, 8, 32))
    for size in np.random.default_rng(0).integers(1, 33, 30):
        static.engine.infer(pictures(int(size)))
    assert static.opened == [1, 8, 32]


@pytest.mark.parametrize("sizes", [(1,), (1, 5), (1, 8), (1, 8, 20), GPU_SIZES])
def test_the_largest_batch_runs_unpadded(resnet8: Path, sizes: tuple[int, ...]) -> None:
    static = Static(resnet8, sizes)
    static.engine.infer(pictures(sizes[-1]))
    assert [size for size, _ in static.take_batches()] == [sizes[-1]]
    assert static.opened == list(sizes)


def test_warming_up_times_each_size(resnet8: Path) -> None:
    static = Static(resnet8, (1, 8))
    assert static.engine.seconds.keys() == {1, 8}
    assert all(seconds > 0 for seconds in static.engine.seconds.values())
    sizes = [size for size, _ in static.warm_up_batches]
    assert sorted(sizes) == [1] * (1 + TIMED_RUNS) + [8] * (1 + TIMED_RUNS)
    assert not {name for _, name in static.warm_up_batches} & {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("sizes", "measured"), [((1, 8), True), ((1, 8, 20), False)])
def test_times_under_load_come_before_times_of_the_warm_up(
    resnet8: Path, sizes: tuple[int, ...], measured: bool
) -> None:
    rates = {1: 100.0, 8: 400.0, 32: 410.0}
    best = Measured(provider="cuda", precision="fp32", lanes=2, lone_ms=10.0, images_per_second=rates)
    info = EngineInfo("cuda", "fp32", 2, sizes, tuned=Tuned(Tuning(measured=(best,)), remembered=True))
    engine = StaticEngine(info, lambda size: open_session(resnet8 / "model.onnx", "cpu", threads=1, batch=size))
    engine.warm_up()
    assert engine.seconds.keys() == set(sizes)
    assert (engine.seconds == {size: size / rates.get(size, 1) for size in sizes}) is measured


class Decoder:
    """Decodes on the processor, where the sessions of these tests have their memory.

    Attributes:
        broken: JPEGs that it does not decode.
    """

    def __init__(self, preprocessing: Preprocessing, broken: tuple[bytes, ...]) -> None:
        self._preprocessing = preprocessing
        self._broken = broken

    def decode(self, jpegs: Sequence[EncodedJpeg], results: Sequence[int]) -> list[bool]:
        for jpeg, address in zip(jpegs, results, strict=True):
            if jpeg.data not in self._broken:
                pixels = decode(jpeg.data, self._preprocessing, max_pixels=10**9).pixels
                ctypes.memmove(address, pixels.ctypes.data, pixels.nbytes)
        return [jpeg.data not in self._broken for jpeg in jpegs]


def decoding(folder: Path, broken: tuple[bytes, ...] = ()) -> StaticEngine:
    """An engine for batches of 1 and 4 images that decodes."""
    preprocessing = read_card(folder).preprocessing

    def open_size(size: int) -> Session:
        return open_session(folder / "model.onnx", "cpu", threads=1, batch=size)

    def new_decoder() -> GpuDecoder:
        return cast(GpuDecoder, Decoder(preprocessing, broken))

    return StaticEngine(EngineInfo("cuda", "fp32", 1, (1, 4), decodes=True), open_size, new_decoder)


def test_jpegs_and_pixels_share_batches(resnet8: Path, photo: bytes) -> None:
    """Each gets the answer that it gets alone; a JPEG that is not decoded gets NaN, and nobody else does."""
    preprocessing = read_card(resnet8).preprocessing
    bad = EncodedJpeg(photo + b"bad", 500, 375)
    engine = decoding(resnet8, (bad.data,))
    engine.warm_up()
    pixels = decode(photo, preprocessing, max_pixels=10**9).pixels
    jpeg = EncodedJpeg(photo, 500, 375)
    noise = pictures(3)
    batch: list[np.ndarray | EncodedJpeg] = [noise[0], jpeg, bad, noise[1], jpeg, bad, noise[2]]
    expected = load(resnet8).infer([pixels if isinstance(image, EncodedJpeg) else image for image in batch], OUTPUTS)
    for images in (batch, batch[1:2], batch[2:3], batch[::-1]):
        found = engine.infer(images, OUTPUTS)
        right = [next(at for at, other in enumerate(batch) if other is image) for image in images]
        for output in OUTPUTS:
            for row, at, image in zip(found[output], right, images, strict=True):
                if image is bad:
                    assert np.isnan(row).all()
                else:
                    np.testing.assert_allclose(row, expected[output][at], rtol=1e-4, atol=1e-4)


def test_an_engine_that_does_not_decode_what_it_should_is_not_taken(
    resnet8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = decoding(resnet8)
    monkeypatch.setattr(Decoder, "decode", lambda self, jpegs, results: [False] * len(jpegs))
    with pytest.raises(ProviderUnavailable, match="the GPU does not decode a plain JPEG"):
        engine.warm_up()
    with pytest.raises(ProviderUnavailable, match="the GPU does not decode a plain JPEG"):
        engine.prepare_thread()


def test_an_engine_that_does_not_decode_refuses_jpegs(resnet8: Path, photo: bytes) -> None:
    for engine in (Static(resnet8).engine, load(resnet8)):
        with pytest.raises(TypeError, match="takes decoded images only"):
            engine.infer([EncodedJpeg(photo, 500, 375)])


@pytest.mark.parametrize("faulty", [1, 8])
def test_the_self_test_covers_every_session(resnet8: Path, faulty: int) -> None:
    def open_size(size: int) -> Session:
        session = open_session(resnet8 / "model.onnx", "cpu", threads=1, batch=size)
        return wrong(session) if size == faulty else session

    engine = StaticEngine(EngineInfo("cuda", "fp16", batch_sizes=(1, 8)), open_size)
    engine.warm_up()
    with pytest.raises(SelfTestFailed, match="cuda computes wrong answers"):
        engine.self_test(SelfTest.read(resnet8))
    assert Static(resnet8, (1, 8)).engine.self_test(SelfTest.read(resnet8)) < 1e-5


def test_preparing_a_thread_runs_every_session_on_it(resnet8: Path) -> None:
    static = Static(resnet8, (1, 8))
    thread = threading.Thread(target=static.engine.prepare_thread, name="lane")
    thread.start()
    thread.join()
    assert sorted(static.take_batches()) == [(1, "lane"), (8, "lane")]


def test_threads_do_not_share_their_buffers(resnet8: Path) -> None:
    static = Static(resnet8, (1, 8), lanes=2)
    images = pictures(24)
    expected = load(resnet8).infer(images)["logits"]

    def infer(first: int) -> np.ndarray:
        return static.engine.infer(images[first : first + 1 + first % 4])["logits"]

    with ThreadPoolExecutor(4) as pool:
        for first, logits in enumerate(pool.map(infer, range(20))):
            np.testing.assert_allclose(logits, expected[first : first + len(logits)], rtol=1e-4, atol=1e-4)
