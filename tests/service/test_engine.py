"""The engine, on really exported models and real providers."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from model_export.quantise.fp16 import halved
from service import engine as engine_module
from service import tuning as tuning_module
from service.card import MODEL_FILES, CardError, Gate, ModelCard, ModelFile, Precision, SelfTest, sha256
from service.engine import (
    FILES,
    GPU_SIZES,
    LARGEST,
    OUTPUTS,
    STAGES,
    TIMED_RUNS,
    DynamicEngine,
    Engine,
    SelfTestFailed,
    StaticEngine,
    load_engine,
    tolerance,
)
from service.providers import (
    ORT_NAMES,
    PREFERENCE,
    Compute,
    PrecisionChoice,
    ProviderChoice,
    ProviderName,
    ProviderUnavailable,
    Session,
    open_session,
)
from service.tuning import Cache, Tuning

GATE = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=0.002, limit=0.01)


@pytest.fixture
def folder(models_dir: Path) -> Path:
    return models_dir / "resnet18" / "1"


@pytest.fixture
def small(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1"


@pytest.fixture(scope="module")
def quantised(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`resnet8-cifar` with an int8 file, which no gate has seen."""

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"image": SelfTest.read(folder).images}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    folder = tmp_path_factory.mktemp("quantised") / "resnet8-cifar" / "1"
    shutil.copytree(models_dir / "resnet8-cifar" / "1", folder)
    quantize_static(
        folder / "model.onnx",
        folder / "model.int8.onnx",
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
    )
    (folder / "card.json").write_text(with_file(folder, "int8", None).to_json())
    return folder


def with_file(folder: Path, precision: Precision, gate: Gate | None) -> ModelCard:
    """The card of a folder, with a file more."""
    path = folder / MODEL_FILES[precision]
    entry = ModelFile(file=path.name, sha256=sha256(path), bytes=path.stat().st_size, gate=gate)
    card = ModelCard.read(folder)
    return card.model_copy(update={"files": card.files | {precision: entry}})


def load(
    folder: Path,
    provider: ProviderChoice = "cpu",
    precision: PrecisionChoice = "auto",
    *,
    card: ModelCard | None = None,
    threads: int = 2,
    lanes: int = 1,
    max_batch: int | Cache = 3,
) -> Engine:
    return load_engine(
        folder,
        card or ModelCard.read(folder),
        provider=provider,
        precision=precision,
        threads=threads,
        lanes=lanes,
        max_batch=max_batch,
    )


def load_or_skip(folder: Path, provider: ProviderName, precision: Compute, *, lanes: int = 1) -> Engine:
    try:
        return load(folder, provider, precision, lanes=lanes)
    except ProviderUnavailable as error:
        pytest.skip(str(error))


class Opened:
    """`open_session` that gives a session on the CPU for every provider, and remembers what it was asked for."""

    def __init__(self, wrap: Callable[[Session, int], Session] = lambda session, streams: session) -> None:
        self.calls: list[tuple[str, str, str, int, int]] = []
        self.batches: list[tuple[int | None, int]] = []  # with the number of the GPU
        self._wrap = wrap

    def __call__(
        self,
        model: Path,
        provider: ProviderName,
        precision: Compute = "fp32",
        *,
        threads: int,
        streams: int = 1,
        batch: int | None = None,
        gpu: int = 0,
    ) -> Session:
        self.calls.append((model.name, provider, precision, threads, streams))
        self.batches.append((batch, gpu))
        session = open_session(model, "cpu", threads=threads, batch=batch)
        return self._wrap(session._replace(provider=provider, compute=precision), streams)


class Wrong:
    """An ONNX Runtime session that computes something else."""

    def __init__(self, session: Session) -> None:
        self._session = session.ort

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [-array for array in self._session.run(outputs, inputs)]

    def get_inputs(self) -> object:
        return self._session.get_inputs()


def wrong(session: Session) -> Session:
    return session._replace(ort=Wrong(session))


@pytest.fixture
def anything_goes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Opened], Opened]:
    """Every provider is there and wanted, on any machine."""

    def install(opened: Opened) -> Opened:
        monkeypatch.setattr(engine_module, "require", lambda provider, gpu: None)
        monkeypatch.setattr(engine_module, "hardware", lambda provider, precision, gpu: {"gpu": str(gpu)})
        monkeypatch.setattr(engine_module, "unwanted_provider", lambda provider: None)
        monkeypatch.setattr(engine_module, "unwanted_precision", lambda provider, precision: None)
        monkeypatch.setattr(engine_module, "open_session", opened)
        return opened

    return install


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


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, (1,)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6))])
def test_a_given_largest_batch_is_that_and_the_powers_of_two_below(
    small: Path, max_batch: int, sizes: tuple[int, ...]
) -> None:
    engine = load(small, max_batch=max_batch)
    assert engine.batch_sizes == sizes
    assert engine.tuned is None


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


def test_a_wrong_narrow_session_is_found_when_loading(
    quantised: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened(lambda session, streams: wrong(session) if streams > 1 else session))
    with pytest.raises(SelfTestFailed, match="openvino computes wrong answers"):
        load(quantised, "openvino", "int8", lanes=2)
    load(quantised, "openvino", "int8", lanes=1)


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


def test_auto_takes_the_first_that_works_and_says_what_was_wrong_with_the_others(
    small: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    def fate(session: Session, streams: int) -> Session:
        if session.provider == "cuda":
            raise ProviderUnavailable("no such luck")
        return wrong(session) if session.provider == "openvino" else session

    opened = anything_goes(Opened(fate))
    engine = load(small, "auto")
    assert (engine.provider, engine.compute) == ("cpu", "fp32")
    assert [call[1:3] for call in opened.calls] == [
        ("cuda", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "fp32"),
        ("cpu", "fp32"),
    ]
    assert list(engine.refused) == [
        "cuda fp16",
        "cuda fp32",
        "openvino int8",
        "openvino bf16",
        "openvino fp32",
        "cpu int8",
    ]
    assert engine.refused["cuda fp32"] == "no such luck"
    assert "has no fp16 file: make one with" in engine.refused["cuda fp16"]
    assert "computes wrong answers" in engine.refused["openvino fp32"]
    with pytest.raises(SelfTestFailed):
        load(small, "openvino", "fp32")


def test_a_provider_that_is_not_there_is_refused_by_its_name(
    small: Path, anything_goes: Callable[[Opened], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cuda(provider: ProviderName, gpu: int) -> None:
        if provider == "cuda":
            raise ProviderUnavailable("no GPU")

    anything_goes(Opened())
    monkeypatch.setattr(engine_module, "require", no_cuda)
    monkeypatch.setattr(engine_module, "unwanted_provider", lambda name: "not here" if name == "openvino" else None)
    engine = load(small, "auto", "fp32")
    assert engine.provider == "cpu"
    assert engine.refused == {"cuda": "no GPU", "openvino": "not here"}
    assert load(small, "openvino", "fp32").provider == "openvino"  # whoever asks for it gets what is unwanted
    with pytest.raises(ProviderUnavailable, match=r"^no GPU$"):
        load(small, "cuda")


def test_auto_on_this_machine_says_why_it_took_nothing_faster(small: Path) -> None:
    engine = load(small, "auto")
    assert engine.compute in PREFERENCE[engine.provider]
    tried = [key.split()[0] for key in engine.refused]
    faster = list(PREFERENCE)[: list(PREFERENCE).index(engine.provider)]
    assert [name for name in dict.fromkeys(tried) if name != engine.provider] == faster
    assert all(engine.refused.values())


def test_a_provider_that_fails_while_running_is_refused_like_one_that_does_not_start(
    small: Path, anything_goes: Callable[[Opened], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: DynamicEngine, batch_sizes: tuple[int, ...]) -> None:
        if self.provider == "openvino":
            raise RuntimeError("out of memory")
        warm_up(self, batch_sizes)

    warm_up = DynamicEngine.warm_up
    anything_goes(Opened())
    monkeypatch.setattr(DynamicEngine, "warm_up", out_of_memory)
    monkeypatch.setattr(engine_module, "unwanted_provider", lambda provider: "no" if provider == "cuda" else None)
    engine = load(small, "auto")
    assert engine.provider == "cpu"
    assert engine.refused["openvino fp32"] == "openvino does not run this model: out of memory"
    with pytest.raises(ProviderUnavailable, match="out of memory"):
        load(small, "openvino", "fp32")


def test_when_nothing_runs_every_reason_is_given(models_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1"))
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ProviderUnavailable, match=r"nothing runs this model: cuda: .*; cpu int8: .*; cpu fp32: "):
        load(folder, "auto")
    with pytest.raises(ProviderUnavailable, match=r"^CPUExecutionProvider does not run"):
        load(folder, "cpu", "fp32")


def test_a_self_test_that_cannot_be_read_is_the_folders_fault(models_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1"))
    (folder / "self_test.npz").write_bytes(b"")
    with pytest.raises(CardError, match="cannot be read"):
        load(folder)


def test_without_a_file_of_int8_there_is_none(small: Path) -> None:
    engine = load(small)
    command = "`python -m model_export quantize resnet8-cifar --precision int8`"
    message = f"resnet8-cifar 1 has no int8 file: make one with {command}"
    assert (engine.compute, engine.refused) == ("fp32", {"cpu int8": message})
    with pytest.raises(ProviderUnavailable, match="has no int8 file"):
        load(small, precision="int8")


def test_int8_that_was_never_compared_is_taken_only_when_asked_for(
    quantised: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened())
    engine = load(quantised)
    assert engine.compute == "fp32"
    assert "int8 file was never compared with fp32; set the precision to int8" in engine.refused["cpu int8"]
    chosen = load(quantised, precision="int8")
    assert (chosen.compute, chosen.refused) == ("int8", {})


def test_int8_that_has_passed_its_gate_is_taken(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = with_file(quantised, "int8", GATE)
    monkeypatch.setattr(engine_module, "unwanted_precision", lambda provider, precision: None)
    engine = load(quantised, card=card)
    assert (engine.compute, engine.refused) == ("int8", {})
    monkeypatch.setattr(engine_module, "unwanted_precision", lambda provider, precision: f"no {precision} here")
    with pytest.raises(ProviderUnavailable, match="cpu int8: no int8 here; cpu fp32: no fp32 here"):
        load(quantised, card=card)
    assert load(quantised, precision="int8", card=card).compute == "int8"  # asked for, it need not be wanted


def test_int8_that_computes_wrongly_gives_way_to_fp32(
    quantised: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened(lambda session, streams: wrong(session) if session.compute == "int8" else session))
    engine = load(quantised, card=with_file(quantised, "int8", GATE))
    assert engine.compute == "fp32"
    assert "computes wrong answers" in engine.refused["cpu int8"]


def test_every_precision_is_computed_from_its_file(quantised: Path, anything_goes: Callable[[Opened], Opened]) -> None:
    card = with_file(quantised, "int8", GATE)
    card = card.model_copy(update={"files": card.files | {"fp16": card.files["fp32"]}})
    assert FILES == {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}
    shutil.copy(quantised / "model.onnx", quantised / "model.fp16.onnx")
    opened = anything_goes(Opened())
    for provider, computes in PREFERENCE.items():
        for compute in computes:
            opened.calls.clear()
            load(quantised, provider, compute, card=card)
            assert opened.calls[0][:3] == (MODEL_FILES[FILES[compute]], provider, compute)
    (quantised / "model.fp16.onnx").unlink()


def test_fp16_needs_its_gate_too(small: Path, tmp_path: Path, anything_goes: Callable[[Opened], Opened]) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "resnet8-cifar" / "1"))
    shutil.copy(folder / "model.onnx", folder / "model.fp16.onnx")
    anything_goes(Opened())
    assert load(folder, "cuda", card=with_file(folder, "fp16", GATE)).compute == "fp16"
    ungated = load(folder, "cuda", card=with_file(folder, "fp16", None))
    assert ungated.compute == "fp32"
    assert "its fp16 file was never compared with fp32" in ungated.refused["cuda fp16"]
    assert load(folder, "cuda", "fp16", card=with_file(folder, "fp16", None)).compute == "fp16"


def test_a_precision_that_the_provider_does_not_have_is_refused(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "resnet8-cifar" / "1"))
    shutil.copy(folder / "model.onnx", folder / "model.fp16.onnx")
    for precision in ("bf16", "fp16"):
        with pytest.raises(ProviderUnavailable, match=f"cpu computes in int8, fp32, not in {precision}"):
            load(folder, "cpu", precision, card=with_file(folder, "fp16", GATE))


def test_nobody_is_sent_to_make_a_file_that_the_provider_could_not_run(small: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="cpu computes in int8, fp32, not in fp16"):
        load(small, "cpu", "fp16")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Measuring takes no time; returns what was measured: (callers, largest)."""
    measured: list[tuple[int, int]] = []

    def measure(run: Callable[[int], object], *, callers: int, sizes: Sequence[int]) -> Tuning:
        measured.append((callers, sizes[-1]))
        run(sizes[-1])
        if sizes == GPU_SIZES:
            return Tuning(images_per_second={1: 100.0, 8: 500.0, 32: 1600.0, 64: 1601.0})
        return Tuning(images_per_second={1: 100.0, 2: 150.0, 4: 200.0, 8: 201.0})

    monkeypatch.setattr(engine_module, "measure", measure)
    return measured


def test_the_best_batch_size_is_measured_once(small: Path, tmp_path: Path, script: list[tuple[int, int]]) -> None:
    first, second = (load(small, max_batch=Cache(tmp_path), lanes=3) for _ in range(2))
    assert script == [(3, LARGEST)]
    for engine, remembered in ((first, False), (second, True)):
        assert engine.batch_sizes == (1, 2, 4)
        assert engine.tuned is not None
        assert engine.tuned.remembered is remembered
        assert engine.tuned.tuning.images_per_second[8] == 201.0


def test_what_is_remembered_holds_for_the_same_model_machine_and_settings(
    small: Path, quantised: Path, tmp_path: Path, script: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    load(small, max_batch=cache)
    load(quantised, precision="fp32", max_batch=cache)  # the same file in another place
    assert len(script) == 1
    load(small, max_batch=cache, threads=1)
    load(small, max_batch=cache, lanes=2)
    load(quantised, precision="int8", max_batch=cache)
    assert len(script) == 4
    monkeypatch.setattr(engine_module, "hardware", lambda provider, precision, gpu: {"processor": "another one"})
    load(small, max_batch=cache)
    monkeypatch.setattr(engine_module.importlib.metadata, "version", lambda package: "99")
    load(small, max_batch=cache)
    assert len(script) == 6


def test_after_measuring_the_session_is_a_fresh_one(
    small: Path, tmp_path: Path, script: list[tuple[int, int]], anything_goes: Callable[[Opened], Opened]
) -> None:
    opened = anything_goes(Opened())
    load(small, precision="fp32", max_batch=Cache(tmp_path))
    assert len(opened.calls) == 2
    load(small, precision="fp32", max_batch=Cache(tmp_path))
    assert len(opened.calls) == 3


def test_measuring_works_on_a_real_engine(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_module, "SECONDS", 0.0)
    engine = load(small, max_batch=Cache(tmp_path), lanes=2)
    assert engine.tuned is not None
    found = engine.tuned.tuning
    assert engine.batch_sizes == found.batch_sizes
    assert min(found.images_per_second) == 1
    assert max(found.images_per_second) <= LARGEST
    assert all(speed > 0 for speed in found.images_per_second.values())


def test_an_engine_that_cannot_be_measured_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Callable[[int], object], *, callers: int, sizes: Sequence[int]) -> Tuning:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine_module, "measure", fail)
    with pytest.raises(ProviderUnavailable, match="cpu does not run this model: out of memory"):
        load(small, precision="fp32", max_batch=Cache(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("provider", "precision", "asked", "lanes", "streams"),
    [
        ("cpu", "fp32", 4, 4, [1]),
        ("cpu", "int8", 4, 4, [1]),
        ("cpu", "fp32", 1, 1, [1]),
        ("cuda", "fp32", 8, STAGES, [1, 1]),
        ("cuda", "fp32", 1, 1, [1, 1]),
        ("openvino", "fp32", 4, 1, [1]),
        ("openvino", "bf16", 4, 4, [1, 4]),
        ("openvino", "int8", 2, 2, [1, 2]),
        ("openvino", "int8", 1, 1, [1]),
    ],
)
def test_lanes_and_their_sessions(
    quantised: Path,
    anything_goes: Callable[[Opened], Opened],
    provider: ProviderName,
    precision: Compute,
    asked: int,
    lanes: int,
    streams: list[int],
) -> None:
    opened = anything_goes(Opened())
    engine = load(quantised, provider, precision, threads=4, lanes=asked)
    assert engine.lanes == lanes
    assert [call[-2:] for call in opened.calls] == [(4, number) for number in streams]


@pytest.mark.parametrize(
    ("provider", "precision", "sessions"),
    [("cpu", "fp32", 1), ("cpu", "int8", 1), ("openvino", "fp32", 1), ("openvino", "bf16", 2), ("openvino", "int8", 2)],
)
def test_several_threads_get_right_answers_at_once(
    quantised: Path, provider: ProviderName, precision: Compute, sessions: int
) -> None:
    engine = load_or_skip(quantised, provider, precision, lanes=2)
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    assert len(engine._answers(images[:1])) == sessions
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


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


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


def test_on_a_gpu_the_service_gets_a_static_engine_on_the_gpu_it_asked_for(
    small: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    opened = anything_goes(Opened())
    engine = load_engine(
        small, ModelCard.read(small), provider="cuda", precision="fp32", threads=4, lanes=4, max_batch=20, gpu=3
    )
    assert isinstance(engine, StaticEngine)
    assert (engine.lanes, engine.batch_sizes) == (STAGES, (1, 8, 20))
    assert opened.batches == [(1, 3), (8, 3), (20, 3)]


def tf32(array: np.ndarray) -> np.ndarray:
    """float32 rounded to the 10 bits of mantissa that TF32 has."""
    bits = array.astype(np.float32).view(np.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(np.float32)


def test_on_a_gpu_the_sizes_are_measured_and_the_split_follows_what_was_measured(
    small: Path, tmp_path: Path, anything_goes: Callable[[Opened], Opened], script: list[tuple[int, int]]
) -> None:
    opened = anything_goes(Opened())
    cache = Cache(tmp_path)
    for remembered in (False, True):
        engine = load(small, "cuda", "fp32", lanes=2, max_batch=cache)
        assert isinstance(engine, StaticEngine)
        assert engine.tuned is not None
        assert engine.tuned.remembered is remembered
        assert engine.batch_sizes == (1, 8, 32)
        assert engine.seconds == {1: 1 / 100, 8: 8 / 500, 32: 32 / 1600}
    assert script == [(2, 64)]
    # measured in one engine, served in a fresh one, remembered in the next
    assert [size for size, _ in opened.batches] == [64, 1, 8, 32, 1, 8, 32]


def test_without_clients_every_size_of_a_gpu_is_proven(small: Path, anything_goes: Callable[[Opened], Opened]) -> None:
    """`evaluate` and `verify` bring batches of any size."""
    opened = anything_goes(Opened())
    engine = load_engine(small, ModelCard.read(small), provider="cuda", precision="fp32", threads=1)
    assert engine.batch_sizes == GPU_SIZES
    engine.infer(pictures(70))
    assert [size for size, _ in opened.batches] == list(GPU_SIZES)
    on_cpu = load_engine(small, ModelCard.read(small), provider="cpu", precision="fp32", threads=1)
    assert on_cpu.batch_sizes == (1,)


def test_a_refused_engine_is_gone_before_the_next_one_opens(
    small: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    """Or a GPU that fp16 fills has no room for fp32."""
    alive: list[weakref.ref[Wrong]] = []
    seen: list[int] = []

    def fate(session: Session, streams: int) -> Session:
        seen.append(sum(reference() is not None for reference in alive))
        if session.compute == "fp32":
            return session
        refused = Wrong(session)
        alive.append(weakref.ref(refused))
        return session._replace(ort=refused)

    anything_goes(Opened(fate))
    shutil.copy(small / "model.onnx", small / "model.fp16.onnx")
    gc.disable()
    try:
        engine = load(small, "cuda", card=with_file(small, "fp16", GATE), max_batch=8)
    finally:
        gc.enable()
        (small / "model.fp16.onnx").unlink()
    assert engine.compute == "fp32"
    assert "computes wrong answers" in engine.refused["cuda fp16"]
    assert seen == [0, 1, 0, 0]  # fp16's two sessions, then fp32's


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


@pytest.mark.gpu
@pytest.mark.skipif(ORT_NAMES["cuda"] not in ort.get_available_providers(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_published_model_on_a_gpu(folder: Path, tmp_path: Path, precision: Compute) -> None:
    """Opened, warmed up, proven in every batch size, and answering in mixed ones as the CPU does."""
    copy = Path(shutil.copytree(folder, tmp_path / "resnet18" / "1"))
    onnx.save(halved(onnx.load(copy / "model.onnx")), copy / "model.fp16.onnx")
    engine = load(copy, "cuda", precision, card=with_file(copy, "fp16", GATE), lanes=2, max_batch=64)
    assert (engine.provider, engine.compute, engine.batch_sizes) == ("cuda", precision, GPU_SIZES)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 224, 224), dtype=np.uint8)
    expected = load(folder).infer(images)["logits"]
    for size in (1, 3, 8, 20, 45, 64):
        found = engine.infer(images[:size])["logits"]
        np.testing.assert_allclose(found, expected[:size], atol=tolerance(precision, None) * np.ptp(expected))
