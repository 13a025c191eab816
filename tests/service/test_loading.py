"""From a published folder to what computes it: on really exported models, and on providers that are not here."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from model_export.quantise.fp16 import halved
from service import loading
from service import tuning as tuning_module
from service.card import MODEL_FILES, CardError, ModelCard
from service.engine import (
    FILES,
    GPU_SIZES,
    LARGEST,
    STAGES,
    DynamicEngine,
    SelfTestFailed,
    StaticEngine,
    tolerance,
)
from service.loading import load_engine
from service.providers import (
    ORT_NAMES,
    PREFERENCE,
    Compute,
    ProviderName,
    ProviderUnavailable,
    Session,
)
from service.tuning import Cache, Rates
from tests.service.engines import GATE, Opened, Wrong, load, pictures, with_file, wrong

pytestmark = pytest.mark.machine


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, (1,)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6))])
def test_a_given_largest_batch_is_that_and_the_powers_of_two_below(
    small: Path, max_batch: int, sizes: tuple[int, ...]
) -> None:
    engine = load(small, max_batch=max_batch)
    assert engine.batch_sizes == sizes
    assert engine.tuned is None


def test_a_wrong_narrow_session_is_found_when_loading(
    quantised: Path, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened(lambda session, streams: wrong(session) if streams > 1 else session))
    with pytest.raises(SelfTestFailed, match="openvino computes wrong answers"):
        load(quantised, "openvino", "int8", lanes=2)
    load(quantised, "openvino", "int8", lanes=1)


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
    assert engine.refused.keys() == {
        "cuda fp16",
        "cuda fp32",
        "openvino int8",
        "openvino bf16",
        "openvino fp32",
        "cpu int8",
    }
    assert engine.refused["cuda fp32"] == "no such luck"
    assert "has no fp16 file: make one with" in engine.refused["cuda fp16"]
    assert "computes wrong answers" in engine.refused["openvino fp32"]
    with pytest.raises(SelfTestFailed):
        load(small, "openvino", "fp32")


def test_a_provider_that_is_not_there_is_refused_by_its_name(
    small: Path, anything_goes: Callable[[Opened], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_cpu(provider: ProviderName, gpu: int) -> None:
        if provider != "cpu":
            raise ProviderUnavailable({"cuda": "no GPU", "openvino": "not here"}[provider])

    anything_goes(Opened())
    monkeypatch.setattr(loading, "require", only_cpu)
    engine = load(small, "auto", "fp32")
    assert engine.provider == "cpu"
    assert engine.refused == {"cuda": "no GPU", "openvino": "not here"}
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

    def no_cuda(provider: ProviderName, gpu: int) -> None:
        if provider == "cuda":
            raise ProviderUnavailable("no GPU")

    warm_up = DynamicEngine.warm_up
    anything_goes(Opened())
    monkeypatch.setattr(DynamicEngine, "warm_up", out_of_memory)
    monkeypatch.setattr(loading, "require", no_cuda)
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
    monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: None)
    engine = load(quantised, card=card)
    assert (engine.compute, engine.refused) == ("int8", {})
    monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: f"no {precision} here")
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


class Speeds:
    """Measuring takes no time: images/s of single images, by provider, precision and number of lanes.

    Attributes:
        measured: what was measured: provider, precision, lanes, sizes, and images/s to beat.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_candidate: dict[tuple[str, str, int], float] = {}
        self.lone: dict[tuple[str, str], float] = {}
        self.measured: list[tuple[str, str, int, tuple[int, ...], float]] = []
        monkeypatch.setattr(loading, "measure", self.measure)
        monkeypatch.setattr(loading, "lone_ms", lambda run: 10.0)

    def measure(self, run: Any, *, callers: int, sizes: Sequence[int], to_beat: float) -> Rates:
        engine = run.func.__self__
        rate = self.by_candidate.get((engine.provider, engine.compute, callers), 100.0)
        self.measured.append((engine.provider, engine.compute, callers, tuple(sizes), to_beat))
        run(sizes[-1])
        return Rates({size: rate * size**0.5 for size in sizes[:3]}, True)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> Speeds:
    return Speeds(monkeypatch)


def test_the_fastest_of_all_that_are_proven_is_taken(
    quantised: Path, tmp_path: Path, speeds: Speeds, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened())
    speeds.by_candidate = {
        ("cuda", "fp32", 1): 50.0,
        ("cuda", "fp32", 2): 50.0,
        ("openvino", "int8", 1): 120.0,
        ("openvino", "int8", 2): 130.0,
        ("cpu", "int8", 1): 200.0,
        ("cpu", "int8", 2): 150.0,
    }
    card = with_file(quantised, "int8", GATE)
    engine = load(quantised, "auto", card=card, lanes=2, max_batch=None, cache=Cache(tmp_path))
    assert (engine.provider, engine.compute, engine.lanes, engine.batch_sizes) == ("cpu", "int8", 1, (1, 2, 4))
    assert engine.tuned is not None
    assert [(one.provider, one.compute, one.lanes) for one in engine.tuned.tuning.measured] == [
        ("cuda", "fp32", 1),
        ("cuda", "fp32", 2),
        *((name, compute, lanes) for name, compute in OTHERS for lanes in (1, 2)),
    ]
    beaten = {(name, compute): to_beat for name, compute, _, _, to_beat in speeds.measured}
    assert beaten["cuda", "fp32"] == 0
    assert beaten["cpu", "fp32"] == 400.0  # 200 in batches of 4, of cpu int8
    assert engine.refused == {"cuda fp16": engine.refused["cuda fp16"]}


OTHERS = [("openvino", "int8"), ("openvino", "bf16"), ("openvino", "fp32"), ("cpu", "int8"), ("cpu", "fp32")]


def test_one_that_computes_wrongly_is_not_measured(
    quantised: Path, tmp_path: Path, speeds: Speeds, anything_goes: Callable[[Opened], Opened]
) -> None:
    anything_goes(Opened(lambda session, streams: wrong(session) if session.compute == "int8" else session))
    card = with_file(quantised, "int8", GATE)
    engine = load(quantised, "cpu", card=card, max_batch=None, cache=Cache(tmp_path))
    assert engine.compute == "fp32"
    assert "computes wrong answers" in engine.refused["cpu int8"]
    assert [compute for _, compute, *_ in speeds.measured] == ["fp32"]
    again = load(quantised, "cpu", card=card, max_batch=None, cache=Cache(tmp_path))
    assert again.refused == engine.refused  # remembered, too


def test_what_was_measured_once_is_remembered(small: Path, tmp_path: Path, speeds: Speeds) -> None:
    first, second = (load(small, max_batch=None, cache=Cache(tmp_path), lanes=3) for _ in range(2))
    assert [(lanes, sizes) for _, _, lanes, sizes, _ in speeds.measured] == [
        (1, (1, 2, 4, 8, 16)),
        (3, (1, 2, 4, 8, 16)),
    ]
    for engine, remembered in ((first, False), (second, True)):
        assert engine.batch_sizes == (1, 2, 4)
        assert engine.tuned is not None
        assert engine.tuned.remembered is remembered


def test_what_is_remembered_holds_for_the_same_model_machine_and_settings(
    small: Path, quantised: Path, tmp_path: Path, speeds: Speeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)

    def times(folder: Path, **options: Any) -> int:
        load(folder, **{"max_batch": None, "cache": cache, **options})
        return len(speeds.measured)

    assert times(small) == 1
    assert times(quantised, precision="fp32") == 1  # the same file in another place
    assert times(small, threads=1) == 2
    assert times(small, lanes=2) == 4
    assert times(quantised, precision="int8") == 5
    assert times(small, max_batch=2) == 6
    monkeypatch.setattr(loading, "hardware", lambda provider, precision, gpu: {"processor": "another one"})
    assert times(small) == 7
    monkeypatch.setattr(loading.importlib.metadata, "version", lambda package: "99")
    assert times(small) == 8


def test_what_is_remembered_but_does_not_run_any_more_is_measured_anew(
    small: Path, tmp_path: Path, speeds: Speeds, anything_goes: Callable[[Opened], Opened]
) -> None:
    broken = False

    def fate(session: Session, streams: int) -> Session:
        return wrong(session) if broken and session.provider == "openvino" else session

    anything_goes(Opened(fate))
    speeds.by_candidate = {("openvino", "fp32", 1): 500.0}
    cache = Cache(tmp_path)
    assert load(small, precision="fp32", provider="auto", max_batch=None, cache=cache).provider == "openvino"
    broken = True
    for remembered in (False, True):
        engine = load(small, precision="fp32", provider="auto", max_batch=None, cache=cache)
        assert engine.provider == "cuda"
        assert engine.tuned is not None
        assert engine.tuned.remembered is remembered
        assert "computes wrong answers" in engine.refused["openvino fp32"]


def test_what_was_set_by_hand_is_not_measured(small: Path, tmp_path: Path, speeds: Speeds) -> None:
    engine = load(small, max_batch=6, cache=Cache(tmp_path))
    assert engine.batch_sizes == (1, 2, 4, 6)
    assert [sizes for *_, sizes, _ in speeds.measured] == [(1, 6)]


def test_after_measuring_the_session_is_a_fresh_one(
    small: Path, tmp_path: Path, speeds: Speeds, anything_goes: Callable[[Opened], Opened]
) -> None:
    opened = anything_goes(Opened())
    load(small, "cpu", "fp32", max_batch=None, cache=Cache(tmp_path))
    assert len(opened.calls) == 2
    load(small, "cpu", "fp32", max_batch=None, cache=Cache(tmp_path))
    assert len(opened.calls) == 3


def test_measuring_works_on_a_real_engine(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_module, "SECONDS", 0.0)
    engine = load(small, "auto", max_batch=None, cache=Cache(tmp_path), lanes=2)
    assert engine.tuned is not None
    found = engine.tuned.tuning
    assert engine.batch_sizes == found.best.batch_sizes
    assert (engine.provider, engine.compute, engine.lanes) == (
        found.best.provider,
        found.best.compute,
        found.best.lanes,
    )
    for one in found.measured:
        assert min(one.images_per_second) == 1
        assert max(one.images_per_second) <= LARGEST
        assert one.lone_ms > 0
        assert all(speed > 0 for speed in one.images_per_second.values())


def test_an_engine_that_cannot_be_measured_is_refused(
    small: Path, tmp_path: Path, speeds: Speeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: object, **options: object) -> Rates:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loading, "measure", fail)
    with pytest.raises(ProviderUnavailable, match="cpu does not run this model: out of memory"):
        load(small, precision="fp32", max_batch=None, cache=Cache(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("provider", "precision", "asked", "lanes", "streams"),
    [
        ("cpu", "fp32", 4, 4, [1, 4]),
        ("cpu", "int8", 2, 2, [1, 2]),
        ("cpu", "fp32", 1, 1, [1]),
        ("cuda", "fp32", 8, STAGES, [1, 1]),
        ("cuda", "fp32", 1, 1, [1, 1]),
        ("openvino", "fp32", 4, 4, [1, 4]),
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


def test_on_a_gpu_the_sizes_are_measured_and_the_split_follows_what_was_measured(
    small: Path, tmp_path: Path, anything_goes: Callable[[Opened], Opened], speeds: Speeds
) -> None:
    opened = anything_goes(Opened())
    cache = Cache(tmp_path)
    speeds.by_candidate = {("cuda", "fp32", 2): 200.0}
    for remembered in (False, True):
        engine = load(small, "cuda", "fp32", lanes=2, max_batch=None, cache=cache)
        assert isinstance(engine, StaticEngine)
        assert engine.tuned is not None
        assert engine.tuned.remembered is remembered
        assert (engine.lanes, engine.batch_sizes) == (2, (1, 8, 32))
        assert engine.seconds == pytest.approx({size: size / (200 * size**0.5) for size in (1, 8, 32)})
    # measured in one engine, served in a fresh one, remembered in the next
    assert [size for size, _ in opened.batches] == [1, 8, 32, 64, 1, 8, 32, 1, 8, 32]


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
