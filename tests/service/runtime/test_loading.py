"""From a published folder to an engine: really exported models, on this machine's providers and on stand-ins."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from model_export.quantise.fp16 import to_fp16
from service.runtime import loading, tuning, tuning_keys
from service.runtime.choices import FILES, PREFERENCE, Precision, ProviderName
from service.runtime.engine import DynamicEngine
from service.runtime.loading import load_engine
from service.runtime.machine import processor, versions
from service.runtime.model_card import Architecture
from service.runtime.model_folder import MODEL_FILES, CardError, read_card
from service.runtime.placement import GPU_LANES, GPU_SIZES, LARGEST
from service.runtime.preprocessing import Views
from service.runtime.providers import ORT_NAMES, ProviderUnavailable, Session
from service.runtime.self_test import SelfTestFailed, tolerance
from service.runtime.static_engine import StaticEngine
from service.runtime.tuning import Cache, Rates, Tuning
from tests.service.runtime.engines import GATE, Opened, Wrong, load, pictures, with_bf16, with_file, wrong
from tests.support.folders import copied
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.machine

NET = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, (1,)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6))])
def test_the_given_largest_batch_and_the_powers_of_two_below_it_are_warmed_up(
    resnet8: Path, max_batch: int, sizes: tuple[int, ...]
) -> None:
    engine = load(resnet8, max_batch=max_batch)
    assert engine.info.batch_sizes == sizes
    assert engine.info.tuned is None


def test_a_wrong_narrow_session_fails_the_self_test(quantised: Path, all_providers: Callable[..., Opened]) -> None:
    all_providers(lambda session, lanes: wrong(session) if lanes > 1 else session)
    with pytest.raises(SelfTestFailed, match="openvino computes wrong answers"):
        load(quantised, "openvino", "int8", lanes=2)
    load(quantised, "openvino", "int8", lanes=1)


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(
    resnet8: Path, all_providers: Callable[..., Opened]
) -> None:
    def only_the_cpu_works(session: Session, lanes: int) -> Session:
        if session.provider == "cuda":
            raise ProviderUnavailable("no such luck")
        return wrong(session) if session.provider == "openvino" else session

    opened = all_providers(only_the_cpu_works)
    engine = load(resnet8, "auto", card=with_bf16(read_card(resnet8)))
    assert (engine.info.provider, engine.info.precision) == ("cpu", "fp32")
    assert list(dict.fromkeys(call[1:] for call in opened.calls)) == [  # CUDA opens several sessions at once
        ("cuda", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "fp32"),
        ("cpu", "fp32"),
    ]
    assert engine.info.refused.keys() == {
        "cuda fp16",
        "cuda fp32",
        "openvino int8",
        "openvino bf16",
        "openvino fp32",
        "cpu int8",
    }
    assert engine.info.refused["cuda fp32"] == "no such luck"
    assert "has no fp16 file: make one with" in engine.info.refused["cuda fp16"]
    assert "computes wrong answers" in engine.info.refused["openvino fp32"]
    with pytest.raises(SelfTestFailed):
        load(resnet8, "openvino", "fp32")


def test_a_missing_provider_is_refused_by_its_name(
    resnet8: Path, all_providers: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_cpu(provider: ProviderName, gpu: int) -> None:
        if provider != "cpu":
            raise ProviderUnavailable({"cuda": "no GPU", "openvino": "no plug-in"}[provider])

    all_providers()
    monkeypatch.setattr(loading, "require", only_cpu)
    engine = load(resnet8, "auto", "fp32")
    assert engine.info.provider == "cpu"
    assert engine.info.refused == {"cuda": "no GPU", "openvino": "no plug-in"}
    with pytest.raises(ProviderUnavailable, match=r"^no GPU$"):
        load(resnet8, "cuda")


def test_auto_on_this_machine_says_why_it_took_nothing_faster(resnet8: Path) -> None:
    engine = load(resnet8, "auto")
    assert engine.info.precision in PREFERENCE[engine.info.provider]
    refused = dict.fromkeys(candidate.split()[0] for candidate in engine.info.refused)
    faster = list(PREFERENCE)[: list(PREFERENCE).index(engine.info.provider)]
    assert [name for name in refused if name != engine.info.provider] == faster
    assert all(engine.info.refused.values())


def test_a_provider_that_fails_while_running_is_refused_like_one_that_does_not_start(
    resnet8: Path, all_providers: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: DynamicEngine) -> None:
        if self.info.provider == "openvino":
            raise RuntimeError("out of memory")
        warm_up(self)

    def no_cuda(provider: ProviderName, gpu: int) -> None:
        if provider == "cuda":
            raise ProviderUnavailable("no GPU")

    warm_up = DynamicEngine.warm_up
    all_providers()
    monkeypatch.setattr(DynamicEngine, "warm_up", out_of_memory)
    monkeypatch.setattr(loading, "require", no_cuda)
    engine = load(resnet8, "auto")
    assert engine.info.provider == "cpu"
    assert engine.info.refused["openvino fp32"] == "openvino does not run this model: out of memory"
    with pytest.raises(ProviderUnavailable, match="out of memory"):
        load(resnet8, "openvino", "fp32")


def test_when_nothing_runs_every_reason_is_given(published: Path) -> None:
    (published / "model.onnx").write_bytes(b"")
    with pytest.raises(ProviderUnavailable, match=r"nothing here runs this model: cuda: .*; cpu int8: .*; cpu fp32: "):
        load(published, "auto")
    with pytest.raises(ProviderUnavailable, match=r"^CPUExecutionProvider does not run"):
        load(published, "cpu", "fp32")


def test_a_card_that_describes_another_file_is_refused(resnet8: Path) -> None:
    card = read_card(resnet8)
    preprocessing = card.preprocessing.model_copy(update={"crop": 64})
    reason = (
        "the file takes images of 3x32x32 and returns 10 logits; its card says 3x64x64 and 10: publish the model again"
    )
    with pytest.raises(ProviderUnavailable, match=reason):
        load(resnet8, "cpu", "fp32", card=card.model_copy(update={"preprocessing": preprocessing}))


def test_an_unreadable_self_test_is_a_fault_of_the_folder(published: Path) -> None:
    (published / "self_test.npz").write_bytes(b"")
    with pytest.raises(CardError, match="cannot be read"):
        load(published)


def test_without_an_int8_file_the_reason_names_the_command_that_makes_one(resnet8: Path) -> None:
    engine = load(resnet8)
    command = "`python -m model_export quantize resnet8-cifar@1 --data FOLDER --precision int8`"
    message = f"resnet8-cifar 1 has no int8 file: make one with {command}"
    assert (engine.info.precision, engine.info.refused) == ("fp32", {"cpu int8": message})
    with pytest.raises(ProviderUnavailable, match="has no int8 file"):
        load(resnet8, precision="int8")


def test_int8_without_a_gate_is_used_only_by_name(quantised: Path, all_providers: Callable[..., Opened]) -> None:
    all_providers()
    auto = load(quantised)
    assert auto.info.precision == "fp32"
    assert "int8 was never compared with fp32: do that with" in auto.info.refused["cpu int8"]
    named = load(quantised, precision="int8")
    assert (named.info.precision, named.info.refused) == ("int8", {})


def test_int8_that_passed_its_gate_is_used_where_it_is_wanted(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = with_file(quantised, "int8", GATE)
    monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: None)
    auto = load(quantised, card=card)
    assert (auto.info.precision, auto.info.refused) == ("int8", {})
    monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: f"no {precision} here")
    with pytest.raises(ProviderUnavailable, match="cpu int8: no int8 here; cpu fp32: no fp32 here"):
        load(quantised, card=card)
    named = load(quantised, precision="int8", card=card)  # by name, also where it is not wanted
    assert named.info.precision == "int8"


def test_int8_that_computes_wrong_answers_gives_way_to_fp32(
    quantised: Path, all_providers: Callable[..., Opened]
) -> None:
    all_providers(lambda session, lanes: wrong(session) if session.precision == "int8" else session)
    engine = load(quantised, card=with_file(quantised, "int8", GATE))
    assert engine.info.precision == "fp32"
    assert "computes wrong answers" in engine.info.refused["cpu int8"]


@pytest.fixture
def with_fp16(published: Path) -> Path:
    """`resnet8-cifar` with its fp32 file in place of an fp16 one, too."""
    (published / "model.fp16.onnx").write_bytes((published / "model.onnx").read_bytes())
    return published


def test_every_precision_is_computed_from_its_file(
    quantised: Path, tmp_path: Path, all_providers: Callable[..., Opened]
) -> None:
    folder = copied(quantised, tmp_path / "resnet8-cifar" / "1")
    (folder / "model.fp16.onnx").write_bytes((folder / "model.onnx").read_bytes())
    card = with_file(folder, "int8", GATE)
    card = card.model_copy(update={"files": card.files | {"fp16": card.files["fp32"]}})
    assert FILES == {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}
    opened = all_providers()
    for provider, precisions in PREFERENCE.items():
        for precision in precisions:
            opened.calls.clear()
            load(folder, provider, precision, card=card)
            assert opened.calls[0] == (MODEL_FILES[FILES[precision]], provider, precision)


def test_fp16_needs_its_gate_too(with_fp16: Path, all_providers: Callable[..., Opened]) -> None:
    all_providers()
    assert load(with_fp16, "cuda", card=with_file(with_fp16, "fp16", GATE)).info.precision == "fp16"
    without_gate = with_file(with_fp16, "fp16", None)
    auto = load(with_fp16, "cuda", card=without_gate)
    assert auto.info.precision == "fp32"
    assert "its fp16 was never compared with fp32" in auto.info.refused["cuda fp16"]
    assert load(with_fp16, "cuda", "fp16", card=without_gate).info.precision == "fp16"


def test_bf16_needs_its_gate_although_it_has_no_file_of_its_own(
    resnet8: Path, all_providers: Callable[..., Opened]
) -> None:
    all_providers()
    auto = load(resnet8, "openvino")
    assert auto.info.precision == "fp32"
    assert auto.info.refused["openvino bf16"] == (
        "its bf16 was never compared with fp32: do that with `python -m model_export quantize resnet8-cifar@1 "
        "--data FOLDER --precision bf16`, or set the precision to bf16 to use it anyway"
    )
    assert load(resnet8, "openvino", "bf16").info.precision == "bf16"
    assert load(resnet8, "openvino", card=with_bf16(read_card(resnet8))).info.precision == "bf16"


def test_no_advice_to_compare_what_the_cpu_cannot_compute(
    resnet8: Path, all_providers: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_providers()
    monkeypatch.setattr(
        loading, "unwanted_precision", lambda provider, precision: "no instructions" if precision == "bf16" else None
    )
    assert load(resnet8, "openvino").info.refused["openvino bf16"] == "no instructions"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_provider_does_not_support_is_refused(with_fp16: Path, precision: Precision) -> None:
    with pytest.raises(ProviderUnavailable, match=f"cpu computes in int8, fp32, not in {precision}"):
        load(with_fp16, "cpu", precision, card=with_file(with_fp16, "fp16", GATE))


def test_no_advice_to_make_a_file_that_the_provider_could_not_run(resnet8: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="cpu computes in int8, fp32, not in fp16"):
        load(resnet8, "cpu", "fp16")


class Speeds:
    """Stands in for measuring, and takes no time.

    Attributes:
        single: images/s of single images, by provider, precision and number of lanes; 100 for all others.
        measured: what was measured: provider, precision, lanes, sizes, and images/s to beat.
    """

    def __init__(self) -> None:
        self.single: dict[tuple[str, str, int], float] = {}
        self.measured: list[tuple[str, str, int, tuple[int, ...], float]] = []

    def measure(self, run: Any, *, lanes: int, sizes: Sequence[int], to_beat: float) -> Rates:
        info = run.func.__self__.info  # of the engine whose `run_black` this is
        rate = self.single.get((info.provider, info.precision, lanes), 100.0)
        self.measured.append((info.provider, info.precision, lanes, tuple(sizes), to_beat))
        run(sizes[-1])
        return Rates({size: rate * size**0.5 for size in sizes[:3]}, True)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> Speeds:
    speeds = Speeds()
    monkeypatch.setattr(loading, "measure", speeds.measure)
    monkeypatch.setattr(loading, "lone_ms", lambda run: 10.0)
    return speeds


def test_the_fastest_proven_candidate_is_taken(
    quantised: Path, tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    all_providers()
    speeds.single = {
        ("cuda", "fp32", 1): 50.0,
        ("cuda", "fp32", 2): 50.0,
        ("openvino", "int8", 1): 120.0,
        ("openvino", "int8", 2): 130.0,
        ("cpu", "int8", 1): 200.0,
        ("cpu", "int8", 2): 150.0,
    }
    card = with_bf16(with_file(quantised, "int8", GATE))
    info = load(quantised, "auto", card=card, lanes=2, max_batch=None, cache=Cache(tmp_path)).info
    assert (info.provider, info.precision, info.lanes, info.batch_sizes) == ("cpu", "int8", 1, (1, 2, 4))
    assert info.tuned is not None
    candidates = [
        ("cuda", "fp32"),
        ("openvino", "int8"),
        ("openvino", "bf16"),
        ("openvino", "fp32"),
        ("cpu", "int8"),
        ("cpu", "fp32"),
    ]
    assert [(result.provider, result.precision, result.lanes) for result in info.tuned.tuning.measured] == [
        (*candidate, lanes) for candidate in candidates for lanes in (1, 2)
    ]
    to_beat = {(provider, precision): rate for provider, precision, _, _, rate in speeds.measured}
    assert to_beat["cuda", "fp32"] == 0
    assert to_beat["cpu", "fp32"] == 400.0  # cpu int8: 200 images/s, doubled in batches of 4
    assert info.refused.keys() == {"cuda fp16"}


def test_a_candidate_that_computes_wrong_answers_is_not_measured(
    quantised: Path, tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    all_providers(lambda session, lanes: wrong(session) if session.precision == "int8" else session)
    card = with_file(quantised, "int8", GATE)
    first, remembered = (load(quantised, "cpu", card=card, max_batch=None, cache=Cache(tmp_path)) for _ in range(2))
    assert first.info.precision == "fp32"
    assert "computes wrong answers" in first.info.refused["cpu int8"]
    assert [precision for _, precision, *_ in speeds.measured] == ["fp32"]
    assert remembered.info.refused == first.info.refused


def test_what_may_only_read_the_cache_measures_nothing(resnet8: Path, tmp_path: Path, speeds: Speeds) -> None:
    cache = Cache(tmp_path / "cache")
    first = load(resnet8, max_batch=None, cache=cache, measures=False)
    assert first.info.tuned is None
    assert speeds.measured == []
    assert not (tmp_path / "cache").exists()
    measured = load(resnet8, max_batch=None, cache=cache)
    second = load(resnet8, max_batch=None, cache=cache, measures=False)
    assert second.info.tuned
    assert second.info.tuned.tuning == (measured.info.tuned and measured.info.tuned.tuning)


def test_measurements_are_remembered(resnet8: Path, tmp_path: Path, speeds: Speeds) -> None:
    first, second = (load(resnet8, max_batch=None, cache=Cache(tmp_path), lanes=3) for _ in range(2))
    assert [(lanes, sizes) for _, _, lanes, sizes, _ in speeds.measured] == [
        (1, (1, 2, 4, 8, 16)),
        (3, (1, 2, 4, 8, 16)),
    ]
    for engine, remembered in ((first, False), (second, True)):
        assert engine.info.batch_sizes == (1, 2, 4)
        assert engine.info.tuned is not None
        assert engine.info.tuned.remembered is remembered


def test_measurements_hold_for_the_same_model_machine_and_settings(
    resnet8: Path, quantised: Path, tmp_path: Path, speeds: Speeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)

    def measurements(folder: Path, **options: Any) -> int:
        """How many there have been after loading once more."""
        load(folder, **{"max_batch": None, "cache": cache, **options})
        return len(speeds.measured)

    assert measurements(resnet8) == 1
    assert measurements(quantised, precision="fp32") == 1  # the same file in another place
    assert measurements(resnet8, threads=1) == 2
    assert measurements(resnet8, lanes=2) == 4
    assert measurements(quantised, precision="int8") == 5
    assert measurements(resnet8, max_batch=2) == 6
    monkeypatch.setattr(tuning_keys, "hardware", lambda provider, precision, gpu: {"processor": "another one"})
    assert measurements(resnet8) == 7
    monkeypatch.setattr(tuning_keys, "versions", lambda packages: dict.fromkeys(packages, "99"))
    assert measurements(resnet8) == 8


def test_measurements_hold_for_other_weights_of_the_same_shape(tmp_path: Path, speeds: Speeds) -> None:
    one, other = (publish_tiny(NET, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert read_card(one).files["fp32"].sha256 != read_card(other).files["fp32"].sha256
    engines = [load(folder, max_batch=None, cache=Cache(tmp_path)) for folder in (one, other)]
    assert len(speeds.measured) == 1
    assert [engine.info.tuned and engine.info.tuned.remembered for engine in engines] == [False, True]


def test_measurements_do_not_hold_for_other_views(resnet8: Path, tmp_path: Path, speeds: Speeds) -> None:
    """Ten views take ten times as long."""
    card = read_card(resnet8)
    for number, views in enumerate((None, Views(count=5, size=16), Views(count=10, size=16))):
        preprocessing = card.preprocessing.model_copy(update={"views": views})
        other = {"fp32": card.files["fp32"].model_copy(update={"sha256": f"{number:064}"})}
        load(
            resnet8,
            card=card.model_copy(update={"preprocessing": preprocessing, "files": other}),
            max_batch=None,
            cache=Cache(tmp_path),
        )
        assert len(speeds.measured) == number + 1


def test_measurements_do_not_hold_for_another_shape(tmp_path: Path, speeds: Speeds) -> None:
    for number, net in enumerate(
        (NET, NET.model_copy(update={"num_classes": 11}), NET.model_copy(update={"depth": 14}))
    ):
        load(publish_tiny(net, tmp_path / str(number)), max_batch=None, cache=Cache(tmp_path))
        assert len(speeds.measured) == number + 1


def test_weights_that_do_not_run_as_others_of_their_shape_are_measured_for_themselves(
    tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    one, other = (publish_tiny(NET, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    broken = False
    opened = all_providers(
        lambda session, lanes: wrong(session) if broken and session.provider == "openvino" else session
    )
    speeds.single = {("openvino", "fp32", 1): 500.0}
    cache = Cache(tmp_path / "cache")

    def taken(folder: Path) -> tuple[str, bool | None]:
        info = load(folder, "auto", "fp32", max_batch=None, cache=cache).info
        return info.provider, info.tuned and info.tuned.remembered

    assert taken(one) == ("openvino", False)
    broken = True
    before = len(opened.calls)
    assert taken(other) == ("cuda", False)
    # As remembered, once; then each of three to be measured, and the fastest.
    assert [provider for _, provider, _ in opened.calls[before:]].count("openvino") == 2
    assert taken(other) == ("cuda", True)
    broken = False
    assert taken(one) == ("openvino", True)


def test_what_was_refused_for_its_weights_says_nothing_of_others(
    tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    one, other = (publish_tiny(NET, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    broken = True
    all_providers(lambda session, lanes: wrong(session) if broken and session.provider == "openvino" else session)
    assert "openvino fp32" in load(one, "auto", "fp32", max_batch=None, cache=Cache(tmp_path)).info.refused
    broken = False
    info = load(other, "auto", "fp32", max_batch=None, cache=Cache(tmp_path)).info
    assert info.refused == {}
    assert info.tuned is not None
    assert not info.tuned.remembered


def test_the_cache_key_stays_as_it_is(quantised: Path, tmp_path: Path, speeds: Speeds) -> None:
    """A change would discard the measurements of every installation."""
    keys: list[Mapping[str, str]] = []

    class Recording(Cache):
        def find(self, key: Mapping[str, str]) -> Tuning | None:
            keys.append(key)
            return super().find(key)

    load(quantised, precision="int8", threads=3, lanes=2, max_batch=None, cache=Recording(tmp_path))
    of_files, of_shape = keys[:2]
    assert keys == [of_files, of_shape] * 2  # again, once nobody else measures
    assert of_files == {
        "candidates": "cpu int8",
        "threads": "3",
        "lanes": "2",
        "max_batch": "None",
        "file of int8": read_card(quantised).files["int8"].sha256,
        "cpu int8: processor": processor(),
        **versions(["onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino"]),
    }
    shape = '{"depth":8,"family":"cifar","variant":"v1.5","shortcut":"A","num_classes":10}; 32 pixels'
    assert of_shape == of_files | {"file of int8": shape}


def test_a_remembered_candidate_that_no_longer_runs_is_measured_again(
    resnet8: Path, tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    broken = False
    all_providers(lambda session, lanes: wrong(session) if broken and session.provider == "openvino" else session)
    speeds.single = {("openvino", "fp32", 1): 500.0}
    cache = Cache(tmp_path)
    assert load(resnet8, "auto", "fp32", max_batch=None, cache=cache).info.provider == "openvino"
    broken = True
    for remembered in (False, True):
        engine = load(resnet8, "auto", "fp32", max_batch=None, cache=cache)
        assert engine.info.provider == "cuda"
        assert engine.info.tuned is not None
        assert engine.info.tuned.remembered is remembered
        assert "computes wrong answers" in engine.info.refused["openvino fp32"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ProviderUnavailable("cuda does not run: no memory")])
def test_what_fails_while_it_is_measured_is_tried_again_at_the_next_start(
    resnet8: Path, tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened], error: Exception
) -> None:
    """Another process held the GPU's memory, say."""
    full = True

    def opened(session: Session, lanes: int) -> Session:
        if full and session.provider == "cuda":
            raise error
        return session

    all_providers(opened)
    speeds.single = {("cuda", "fp32", 1): 500.0}
    cache = Cache(tmp_path)
    info = load(resnet8, "auto", "fp32", max_batch=None, cache=cache).info
    assert info.provider != "cuda"
    assert "memory" in info.refused["cuda fp32"]
    full = False
    assert load(resnet8, "auto", "fp32", max_batch=None, cache=cache).info.provider == "cuda"


def test_a_given_largest_batch_is_not_chosen_by_measurement(resnet8: Path, tmp_path: Path, speeds: Speeds) -> None:
    engine = load(resnet8, max_batch=6, cache=Cache(tmp_path))
    assert engine.info.batch_sizes == (1, 2, 4, 6)
    assert [sizes for *_, sizes, _ in speeds.measured] == [(1, 6)]


def test_after_measuring_a_fresh_session_is_opened(
    resnet8: Path, tmp_path: Path, speeds: Speeds, all_providers: Callable[..., Opened]
) -> None:
    opened = all_providers()
    load(resnet8, "cpu", "fp32", max_batch=None, cache=Cache(tmp_path))
    assert len(opened.calls) == 2
    load(resnet8, "cpu", "fp32", max_batch=None, cache=Cache(tmp_path))
    assert len(opened.calls) == 3


def test_measuring_works_on_a_real_engine(resnet8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    info = load(resnet8, "auto", max_batch=None, cache=Cache(tmp_path), lanes=2).info
    assert info.tuned is not None
    best = info.tuned.tuning.best
    assert info.batch_sizes == best.batch_sizes
    assert (info.provider, info.precision, info.lanes) == (best.provider, best.precision, best.lanes)
    for result in info.tuned.tuning.measured:
        assert min(result.images_per_second) == 1
        assert max(result.images_per_second) <= LARGEST
        assert result.lone_ms > 0
        assert all(rate > 0 for rate in result.images_per_second.values())


def test_an_engine_that_cannot_be_measured_is_refused(
    resnet8: Path, tmp_path: Path, speeds: Speeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: object, **options: object) -> Rates:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loading, "measure", fail)
    with pytest.raises(ProviderUnavailable, match="cpu does not run this model: out of memory"):
        load(resnet8, precision="fp32", max_batch=None, cache=Cache(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("provider", "precision", "given", "lanes", "lanes_of_sessions"),
    [
        ("cpu", "fp32", 4, 4, [1, 4]),
        ("cpu", "int8", 2, 2, [1, 2]),
        ("cpu", "fp32", 1, 1, [1]),
        ("cuda", "fp32", 8, GPU_LANES, [1, 1]),
        ("cuda", "fp32", 1, 1, [1, 1]),
        ("openvino", "fp32", 4, 4, [1, 4]),
        ("openvino", "bf16", 4, 4, [1, 4]),
        ("openvino", "int8", 2, 2, [1, 2]),
        ("openvino", "int8", 1, 1, [1]),
    ],
)
def test_lanes_and_their_sessions(
    quantised: Path,
    all_providers: Callable[..., Opened],
    provider: ProviderName,
    precision: Precision,
    given: int,
    lanes: int,
    lanes_of_sessions: list[int],
) -> None:
    opened = all_providers()
    engine = load(quantised, provider, precision, threads=4, lanes=given)
    assert engine.info.lanes == lanes
    assert opened.cores == [(4, number) for number in lanes_of_sessions]


def test_cuda_gets_a_static_engine_on_the_given_gpu(resnet8: Path, all_providers: Callable[..., Opened]) -> None:
    opened = all_providers()
    engine = load_engine(
        resnet8, read_card(resnet8), provider="cuda", precision="fp32", threads=4, lanes=4, max_batch=20, gpu=3
    )
    assert isinstance(engine, StaticEngine)
    assert (engine.info.lanes, engine.info.batch_sizes) == (GPU_LANES, (1, 8, 20))
    assert opened.batches == [(1, 3), (8, 3), (20, 3)]


def test_batch_sizes_of_a_gpu_and_their_times_are_those_measured(
    resnet8: Path, tmp_path: Path, all_providers: Callable[..., Opened], speeds: Speeds
) -> None:
    opened = all_providers()
    cache = Cache(tmp_path)
    speeds.single = {("cuda", "fp32", 2): 200.0}
    for remembered in (False, True):
        engine = load(resnet8, "cuda", "fp32", lanes=2, max_batch=None, cache=cache)
        assert isinstance(engine, StaticEngine)
        assert engine.info.tuned is not None
        assert engine.info.tuned.remembered is remembered
        assert (engine.info.lanes, engine.info.batch_sizes) == (2, (1, 8, 32))
        assert engine.seconds == pytest.approx({size: size / (200 * size**0.5) for size in (1, 8, 32)})
    # Measured in one engine, served in a fresh one, remembered in the next.
    assert [size for size, _ in opened.batches] == [1, 8, 32, 64, 1, 8, 32, 1, 8, 32]


def test_without_a_cache_every_batch_size_of_a_gpu_is_warmed_up(
    resnet8: Path, all_providers: Callable[..., Opened]
) -> None:
    """`evaluate` and `verify` bring batches of any size."""
    opened = all_providers()
    engine = load_engine(resnet8, read_card(resnet8), provider="cuda", precision="fp32", threads=1)
    assert engine.info.batch_sizes == GPU_SIZES
    engine.infer(pictures(70))
    assert [size for size, _ in opened.batches] == list(GPU_SIZES)
    on_cpu = load_engine(resnet8, read_card(resnet8), provider="cpu", precision="fp32", threads=1)
    assert on_cpu.info.batch_sizes == (1,)


def test_a_refused_engine_is_freed_before_the_next_one_opens(
    with_fp16: Path, all_providers: Callable[..., Opened]
) -> None:
    """Otherwise a GPU that fp16 fills would have no room for fp32."""
    refused: list[weakref.ref[Wrong]] = []
    alive: list[int] = []  # refused sessions, whenever another one opens

    def refuse_fp16(session: Session, lanes: int) -> Session:
        alive.append(sum(reference() is not None for reference in refused))
        if session.precision == "fp32":
            return session
        broken = Wrong(session)
        refused.append(weakref.ref(broken))
        return session._replace(ort=broken)

    all_providers(refuse_fp16)
    gc.disable()
    try:
        engine = load(with_fp16, "cuda", card=with_file(with_fp16, "fp16", GATE), max_batch=8)
    finally:
        gc.enable()
    assert engine.info.precision == "fp32"
    assert "computes wrong answers" in engine.info.refused["cuda fp16"]
    assert alive == [0, 1, 0, 0]  # two sessions of fp16, then two of fp32


@pytest.mark.gpu
@pytest.mark.skipif(ORT_NAMES["cuda"] not in ort.get_available_providers(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_published_model_on_a_gpu(resnet18: Path, tmp_path: Path, precision: Precision) -> None:
    """Every batch size passes the self-test, and mixed sizes get the CPU's answers."""
    folder = copied(resnet18, tmp_path / "resnet18" / "1")
    onnx.save(to_fp16(onnx.load(folder / "model.onnx")), folder / "model.fp16.onnx")
    engine = load(folder, "cuda", precision, card=with_file(folder, "fp16", GATE), lanes=2, max_batch=64)
    assert (engine.info.provider, engine.info.precision, engine.info.batch_sizes) == ("cuda", precision, GPU_SIZES)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 224, 224), dtype=np.uint8)
    expected = load(resnet18).infer(images)["logits"]
    for size in (1, 3, 8, 20, 45, 64):
        logits = engine.infer(images[:size])["logits"]
        np.testing.assert_allclose(logits, expected[:size], atol=tolerance(precision, None) * np.ptp(expected))
