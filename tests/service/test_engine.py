"""The engine, on really exported models and real providers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.card import SelfTest
from service.engine import (
    GPU_SIZES,
    OUTPUTS,
    TIMED_RUNS,
    DynamicEngine,
    SelfTestFailed,
    StaticEngine,
    tolerance,
)
from service.providers import (
    Compute,
    ProviderName,
    Session,
    open_session,
)
from tests.service.engines import Wrong, load, load_or_skip, pictures, wrong

pytestmark = pytest.mark.machine


def test_outputs_and_their_shapes(folder: Path) -> None:
    images = SelfTest.read(folder).images[:3]
    found = load(folder).infer(images, OUTPUTS)
    assert {name: array.shape for name, array in found.items()} == {
        "logits": (3, 1000),
        "embedding": (3, 512),
        "feature_map": (3, 512, 7, 7),
    }
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_allclose(found["embedding"], found["feature_map"].mean(axis=(2, 3)), rtol=1e-4)


def test_an_answer_does_not_depend_on_the_batch(folder: Path) -> None:
    images = SelfTest.read(folder).images
    engine = load(folder)
    together = engine.infer(images)["logits"]
    alone = np.concatenate([engine.infer(image[None])["logits"] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")])
def test_the_self_test_reproduces_pytorchs_answers(folder: Path, provider: ProviderName, precision: Compute) -> None:
    engine = load_or_skip(folder, provider, precision)
    assert (engine.provider, engine.compute) == (provider, precision)
    stored = SelfTest.read(folder)
    assert 0 < engine.self_test(stored) < tolerance(precision, stored.rounding)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_int8_is_close(quantised: Path, provider: ProviderName) -> None:
    engine = load_or_skip(quantised, provider, "int8")
    assert (engine.provider, engine.compute) == (provider, "int8")
    stored = SelfTest.read(quantised)
    assert tolerance("fp32", stored.rounding) < engine.self_test(stored) < tolerance("int8", stored.rounding)


def test_wrong_answers_are_refused(small: Path) -> None:
    engine = load(small)
    stored = SelfTest.read(small)
    wrong = SelfTest(stored.images, np.roll(stored.logits, 1, axis=1))
    with pytest.raises(SelfTestFailed, match="cpu computes wrong answers"):
        engine.self_test(wrong)
    with pytest.raises(SelfTestFailed):
        engine.self_test(SelfTest(stored.images, np.full_like(stored.logits, np.nan)))


@pytest.mark.parametrize("at_fault", ["wide", "narrow"])
def test_the_self_test_is_of_both_sessions(small: Path, at_fault: str) -> None:
    good = open_session(small / "model.onnx", "cpu", threads=1)
    sessions = (wrong(good), good) if at_fault == "wide" else (good, wrong(good))
    with pytest.raises(SelfTestFailed):
        DynamicEngine(*sessions, lanes=2).self_test(SelfTest.read(small))
    DynamicEngine(good, good, lanes=2).self_test(SelfTest.read(small))


def test_alone_means_the_wide_session(small: Path) -> None:
    good = open_session(small / "model.onnx", "cpu", threads=1)
    engine = DynamicEngine(good, wrong(good), lanes=2)
    images = SelfTest.read(small).images
    np.testing.assert_array_equal(
        engine.infer(images, alone=True)["logits"], -engine.infer(images, alone=False)["logits"]
    )


def test_both_sessions_are_warmed_up(small: Path) -> None:
    class Counting(Wrong):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.sizes: list[int] = []

        def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            self.sizes.append(len(inputs["image"]))
            return super().run(outputs, inputs)

    good = open_session(small / "model.onnx", "cpu", threads=1)
    wide, narrow = Counting(good), Counting(good)
    engine = DynamicEngine(good._replace(ort=wide), good._replace(ort=narrow), lanes=2)
    engine.warm_up((1, 2, 4))
    assert wide.sizes == narrow.sizes == [1, 2, 4]
    assert engine.batch_sizes == (1, 2, 4)


@pytest.mark.parametrize(
    ("provider", "precision"),
    [("cpu", "fp32"), ("cpu", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")],
)
def test_several_threads_get_right_answers_at_once(quantised: Path, provider: ProviderName, precision: Compute) -> None:
    engine = load_or_skip(quantised, provider, precision, lanes=2)
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    assert len(engine._answers(images[:1])) == 2  # of the wide session and of the narrow one
    expected = [engine.infer(image[None])["logits"][0] for image in images]

    def infer(first: int) -> np.ndarray:
        size = 1 + first % 4
        return engine.infer(images[first : first + size], alone=False)["logits"]

    with ThreadPoolExecutor(2) as pool:
        for first, found in enumerate(pool.map(infer, range(20))):
            allowed = tolerance(precision, None) * np.ptp(expected)
            np.testing.assert_allclose(found, expected[first : first + len(found)], atol=allowed)


class Recorded:
    """An ONNX Runtime session that remembers its batches, and on which thread it ran."""

    def __init__(self, session: Session) -> None:
        self._session = session.ort
        self.ran: list[tuple[int, str]] = []

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.ran.append((len(inputs["image"]), threading.current_thread().name))
        return self._session.run(outputs, inputs)

    def get_inputs(self) -> object:
        return self._session.get_inputs()


class Static:
    """A `StaticEngine` on the CPU provider, and what its sessions ran."""

    def __init__(self, folder: Path, lanes: int = 1) -> None:
        self.opened: list[int] = []
        self.sessions: dict[int, Recorded] = {}
        self._folder = folder
        self.engine = StaticEngine(self._open, "cuda", "fp32", lanes=lanes)

    def _open(self, size: int) -> Session:
        self.opened.append(size)
        session = open_session(self._folder / "model.onnx", "cpu", threads=1, batch=size)
        self.sessions[size] = Recorded(session)
        return session._replace(ort=self.sessions[size])

    def ran(self) -> list[int]:
        """The batches since this was last asked."""
        sizes = [size for session in self.sessions.values() for size, _ in session.ran]
        for session in self.sessions.values():
            session.ran.clear()
        return sizes


def test_every_batch_size_of_a_static_engine_has_a_session_that_runs_no_other(small: Path) -> None:
    static = Static(small)
    assert static.engine.sizes() == GPU_SIZES == (1, 8, 32, 64)
    static.engine.warm_up((1, 8))
    assert static.opened == [1, 8]
    for size, session in static.sessions.items():
        assert session.get_inputs()[0].shape == [size, 3, 32, 32]  # type: ignore[index]
    with pytest.raises(Exception, match="Got: 3 Expected: 8"):
        static.sessions[8].run(["logits"], {"image": pictures(3)})


@pytest.mark.parametrize(
    ("images", "batches"),
    [(1, [1]), (2, [8]), (8, [8]), (9, [32]), (45, [64]), (64, [64]), (65, [64, 1]), (150, [64, 64, 32])],
)
def test_batches_in_between_are_padded_and_what_was_padded_is_dropped(
    small: Path, images: int, batches: list[int]
) -> None:
    static = Static(small)
    static.engine.warm_up(GPU_SIZES)
    static.ran()
    found = static.engine.infer(pictures(images), OUTPUTS)
    assert sorted(static.ran(), reverse=True) == batches
    expected = load(small).infer(pictures(images), OUTPUTS)
    for output in OUTPUTS:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-4)


def test_images_of_a_static_engine_may_be_separate_arrays_and_leave_nothing_behind(small: Path) -> None:
    static = Static(small)
    static.engine.warm_up((1, 8))
    full = static.engine.infer(list(pictures(8)))["logits"]
    np.testing.assert_array_equal(static.engine.infer(list(pictures(3)))["logits"], full[:3])
    np.testing.assert_array_equal(static.engine.infer(pictures(8)[::-1])["logits"], full[::-1])


def test_a_changing_load_opens_no_session_anew(small: Path) -> None:
    static = Static(small)
    static.engine.warm_up(static.engine.sizes(32))
    for size in np.random.default_rng(0).integers(1, 33, 30):
        static.engine.infer(pictures(int(size)))
    assert static.opened == [1, 8, 32]


@pytest.mark.parametrize(("largest", "sizes"), [(1, (1,)), (5, (1, 5)), (8, (1, 8)), (20, (1, 8, 20)), (64, GPU_SIZES)])
def test_a_given_largest_batch_of_a_static_engine(small: Path, largest: int, sizes: tuple[int, ...]) -> None:
    static = Static(small)
    assert static.engine.sizes(largest) == sizes
    static.engine.warm_up(sizes)
    static.ran()
    static.engine.infer(pictures(largest))
    assert static.ran() == [largest]
    assert static.opened == list(sizes)


def test_a_static_engine_knows_how_long_its_sizes_take(small: Path) -> None:
    static = Static(small)
    static.engine.warm_up((1, 8))
    assert static.engine.seconds.keys() == {1, 8}
    assert all(took > 0 for took in static.engine.seconds.values())
    assert static.sessions[1].ran == static.sessions[1].ran[:1] * (1 + TIMED_RUNS)
    assert load(small).seconds is None


@pytest.mark.parametrize("at_fault", [1, 8])
def test_every_session_of_a_static_engine_is_proven(small: Path, at_fault: int) -> None:
    def open_size(size: int) -> Session:
        session = open_session(small / "model.onnx", "cpu", threads=1, batch=size)
        return wrong(session) if size == at_fault else session

    engine = StaticEngine(open_size, "cuda", "fp16")
    engine.warm_up((1, 8))
    with pytest.raises(SelfTestFailed, match="cuda computes wrong answers"):
        engine.self_test(SelfTest.read(small))
    sound = Static(small).engine
    sound.warm_up((1, 8))
    assert sound.self_test(SelfTest.read(small)) < 1e-5


def test_a_static_engine_is_warmed_up_on_every_thread_that_will_use_it(small: Path) -> None:
    static = Static(small)
    static.engine.warm_up((1, 8))
    static.ran()
    thread = threading.Thread(target=static.engine.warm_up_thread, name="lane")
    thread.start()
    thread.join()
    assert [session.ran for session in static.sessions.values()] == [[(1, "lane")], [(8, "lane")]]


def test_threads_of_a_static_engine_do_not_share_their_buffers(small: Path) -> None:
    static = Static(small, lanes=2)
    static.engine.warm_up((1, 8))
    images = pictures(24)
    expected = load(small).infer(images)["logits"]

    def infer(first: int) -> np.ndarray:
        return static.engine.infer(images[first : first + 1 + first % 4])["logits"]

    with ThreadPoolExecutor(4) as pool:
        for first, found in enumerate(pool.map(infer, range(20))):
            np.testing.assert_allclose(found, expected[first : first + len(found)], rtol=1e-4, atol=1e-4)


def tf32(array: np.ndarray) -> np.ndarray:
    """float32 rounded to the 10 bits of mantissa that TF32 has."""
    bits = array.astype(np.float32).view(np.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(np.float32)


def test_tf32_is_not_taken_for_fp32(small: Path, tmp_path: Path) -> None:
    """Weights rounded to TF32 are less than what the provider does, which rounds activations as well."""
    model = onnx.load(small / "model.onnx")
    for constant in model.graph.initializer:
        if len(constant.dims) == 4:
            rounded = tf32(onnx.numpy_helper.to_array(constant))
            constant.CopyFrom(onnx.numpy_helper.from_array(rounded, constant.name))
    onnx.save(model, tmp_path / "model.onnx")
    stored = SelfTest.read(small)
    static = Static(tmp_path)
    static.engine.warm_up((8,))
    with pytest.raises(SelfTestFailed, match=r"fp32 explains .*, ONNX Runtime takes TF32: serve this model in fp16"):
        static.engine.self_test(stored)
    session = open_session(tmp_path / "model.onnx", "cpu", threads=1)
    with pytest.raises(SelfTestFailed, match=r"fp32 explains [0-9.]*%$"):
        DynamicEngine(session).self_test(stored)
    difference = DynamicEngine(session._replace(compute="fp16")).self_test(stored)
    assert difference > tolerance("fp32", stored.rounding)


@pytest.mark.parametrize(
    ("compute", "rounding", "allowed"),
    [
        ("fp32", 1e-9, 1e-5),
        ("fp32", 3e-7, 64 * 3e-7),
        ("fp16", 3e-7, 2 * 2**13 * 3e-7),
        ("fp16", 1e-9, 2e-3),
        ("bf16", 3e-7, 2**16 * 3e-7),
        ("bf16", 1e-4, 0.3),  # a plain net of 56 layers, which such roundoff destroys
        ("int8", 3e-7, 0.2),
        ("fp32", None, 1e-4),
        ("bf16", None, 0.1),
    ],
)
def test_what_is_allowed_follows_the_networks_own_rounding(
    compute: Compute, rounding: float | None, allowed: float
) -> None:
    assert tolerance(compute, rounding) == pytest.approx(allowed)
