"""Models computed in this process."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.versions import publish_copy
from service import local_backend
from service.backend import EngineFailed, Failed, Ready
from service.local_backend import LocalBackend, open_engine
from service.local_runner import FAILURES, EngineBroken, LocalRunner
from service.metrics import Metrics
from service.model_repository import Model, Status, open_repository
from service.published import Stamp
from service.runtime.engine import DynamicEngine, Engine, EngineInfo
from service.runtime.graph import Output
from service.runtime.model_card import ModelFile
from service.runtime.model_folder import read_card
from service.runtime.providers import ProviderUnavailable
from service.settings import Settings
from tests.service.served import Served
from tests.support.engines import failing, queued
from tests.support.folders import copied
from tests.support.waiting import async_until, until

MARK = bytes(range(24))


class Picture(NamedTuple):
    image: np.ndarray
    top_k: int = 1
    deadline: float = math.inf
    request_id: str = "some-request"
    outputs: Sequence[Output] = ()
    mark: bytes = MARK


class ScriptedEngine:
    """An engine whose batches end as they are told to: with an exception, or with logits."""

    info = EngineInfo("cpu", "fp32")
    seconds: dict[int, float] | None = None

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)
        self.batches: list[int] = []
        self.outputs: list[tuple[Output, ...]] = []

    def infer(self, images: Sequence[np.ndarray], *, outputs: Sequence[Output], alone: bool) -> dict[str, np.ndarray]:
        self.batches.append(len(images))
        if self._ends and (error := self._ends.pop(0)):
            raise error
        self.outputs.append(tuple(outputs))
        return {name: np.zeros((len(images), 10), np.float32) for name in outputs}

    def prepare_thread(self) -> None:
        """Nothing to prepare."""


@pytest.fixture
def runner(tiny_dir: Path) -> Callable[..., LocalRunner]:
    """A model at work on a scripted engine."""

    def build(
        engine: ScriptedEngine,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
        max_wait: float = 0.0,
    ) -> LocalRunner:
        path = tiny_dir / "resnet8-cifar" / "1"
        scripted: Any = engine
        return LocalRunner(
            Model(Stamp.of(path), read_card(path)), scripted, Metrics(), on_broken=on_broken, max_wait=max_wait
        )

    return build


async def submit(runner: LocalRunner) -> str:
    """What becomes of a picture."""
    pending = runner.pending()
    runner.submit(Picture(np.zeros((3, 32, 32), np.uint8)), pending)
    try:
        await pending
    except EngineFailed as error:
        return str(error)
    return "answered"


def outcomes(runner: LocalRunner, images: int) -> list[str]:
    """What becomes of so many images, each in a batch of its own."""

    async def run() -> list[str]:
        return [await submit(runner) for _ in range(images)]

    try:
        return asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        runner.close()


def test_only_batches_that_hold_such_an_item_compute_more_than_logits(runner: Callable[..., LocalRunner]) -> None:
    engine = ScriptedEngine()
    made = runner(engine)

    async def scenario() -> None:
        for outputs in ((), ("feature_map", "embedding"), ()):
            pending = made.pending()
            made.submit(Picture(np.zeros((3, 32, 32), np.uint8), outputs=outputs), pending)
            answer, _ = await pending
            assert tuple(answer.outputs) == outputs

    asyncio.run(asyncio.wait_for(scenario(), 60))
    made.close()
    assert engine.outputs == [("logits",), ("logits", "embedding", "feature_map"), ("logits",)]


def test_an_engine_that_fails_batch_after_batch_is_given_up_once(runner: Callable[..., LocalRunner]) -> None:
    told: list[EngineBroken] = []
    made = runner(ScriptedEngine(*[RuntimeError("CUDA failure 700")] * 5), told.append)
    assert outcomes(made, 6) == ["CUDA failure 700"] * 5 + ["answered"]
    assert [str(error) for error in told] == [
        f"resnet8-cifar: the engine has failed {FAILURES} times in a row: CUDA failure 700"
    ]


def test_an_engine_that_answers_in_between_is_not_given_up(runner: Callable[..., LocalRunner]) -> None:
    told: list[EngineBroken] = []
    fault = RuntimeError("out of memory")
    made = runner(ScriptedEngine(fault, fault, None, fault, fault, None), told.append)
    assert outcomes(made, 6) == ["out of memory", "out of memory", "answered"] * 2
    assert told == []


def test_failures_of_all_lanes_are_counted_and_told_once(runner: Callable[..., LocalRunner]) -> None:
    told: list[EngineBroken] = []
    engine = ScriptedEngine(*[RuntimeError("CUDA failure 700")] * 100)
    engine.info = EngineInfo("cpu", "fp32", lanes=8)
    made = runner(engine, told.append)

    async def together() -> set[str]:
        return set(await asyncio.gather(*(submit(made) for _ in range(100))))

    assert asyncio.run(together()) == {"CUDA failure 700"}
    made.close()
    assert len(engine.batches) == 100
    assert len(told) == 1


def pictures(*values: int) -> list[Picture]:
    return [Picture(np.full((3, 32, 32), value, np.uint8)) for value in values]


class PickyEngine(ScriptedEngine):
    """An engine that runs no batch of more than `most` images, and none with a picture of value 13."""

    info = EngineInfo("cpu", "fp32", batch_sizes=(1, 8))

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def infer(self, images: Sequence[np.ndarray], *, outputs: Sequence[Output], alone: bool) -> dict[str, np.ndarray]:
        if len(images) > self._most:
            self.batches.append(len(images))
            raise RuntimeError("no memory for this batch")
        if any(image[0, 0, 0] == 13 for image in images):
            self.batches.append(len(images))
            raise RuntimeError("thirteen")
        return super().infer(images, outputs=outputs, alone=alone)


def answers(runner: LocalRunner, *values: int) -> list[str]:
    """What becomes of pictures of these values in one batch."""

    async def run() -> list[object]:
        pendings = [runner.pending() for _ in values]
        for pending, picture in zip(pendings, pictures(*values), strict=True):
            runner.submit(picture, pending)
        return await asyncio.gather(*pendings, return_exceptions=True)

    try:
        outcomes = asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        runner.close()
    return [str(outcome) if isinstance(outcome, Exception) else "answered" for outcome in outcomes]


def test_only_the_guilty_image_of_a_failed_batch_fails(
    runner: Callable[..., LocalRunner], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[EngineBroken] = []
    engine = PickyEngine(most=8)
    made = runner(engine, told.append, max_wait=10)
    assert answers(made, 1, 2, 13, 4, 5, 6, 7, 8) == ["answered"] * 2 + ["thirteen"] + ["answered"] * 5
    assert engine.batches == [8] + [1] * 8
    assert told == []
    batch, image = (record for record in caplog.records if record.name == "service.local_runner")
    assert (batch.levelname, image.levelname) == ("WARNING", "ERROR")
    assert {batch.__dict__["request_id"], image.__dict__["request_id"]} == {"some-request"}
    assert {batch.__dict__["trace"], image.__dict__["trace"]} == {MARK}


def test_a_batch_without_memory_runs_image_by_image(runner: Callable[..., LocalRunner]) -> None:
    engine = PickyEngine(most=1)
    assert answers(runner(engine, max_wait=10), *range(8)) == ["answered"] * 8
    assert engine.batches == [8] + [1] * 8


def test_an_engine_that_fails_image_by_image_too_is_given_up_without_trying_every_one(
    runner: Callable[..., LocalRunner],
) -> None:
    told: list[EngineBroken] = []
    engine = PickyEngine(most=0)
    found = answers(runner(engine, told.append, max_wait=10), *range(8))
    assert engine.batches == [8, 1, 1, 1]
    assert len(told) == 1
    assert found == ["no memory for this batch"] * 3 + ["resnet8-cifar: the engine has failed 3 times in a row"] * 5


def test_batches_without_memory_on_several_lanes_break_nothing(runner: Callable[..., LocalRunner]) -> None:
    """Four lanes whose first batches fail at the same time."""
    told: list[EngineBroken] = []
    together = threading.Barrier(4, timeout=60)

    class Crowded(PickyEngine):
        info = EngineInfo("cpu", "fp32", batch_sizes=(1, 2), lanes=4)

        def infer(
            self, images: Sequence[np.ndarray], *, outputs: Sequence[Output], alone: bool
        ) -> dict[str, np.ndarray]:
            if len(images) > 1:
                together.wait()
            return super().infer(images, outputs=outputs, alone=alone)

    made = runner(Crowded(most=1), told.append, max_wait=10)
    assert answers(made, *range(8)) == ["answered"] * 8
    assert told == []


def test_padded_batches_are_split_by_how_long_their_sizes_take(runner: Callable[..., LocalRunner]) -> None:
    """Five queued images: one by one in exact sizes of 1, at once where a batch of eight takes little more time."""

    def batches(engine: ScriptedEngine) -> list[int]:
        started, gate, infer = threading.Event(), threading.Event(), engine.infer

        def held(images: Sequence[np.ndarray], **options: Any) -> dict[str, np.ndarray]:
            started.set()
            assert gate.wait(60)
            return infer(images, **options)

        engine.infer = held  # type: ignore[method-assign]
        made = runner(engine)

        async def six() -> None:
            first = asyncio.create_task(submit(made))
            assert await asyncio.to_thread(started.wait, 60)
            others = [asyncio.create_task(submit(made)) for _ in range(5)]
            await async_until(lambda: queued(made) == 5)
            gate.set()
            await asyncio.gather(first, *others)

        asyncio.run(six())
        made.close()
        return engine.batches

    exact, padded = ScriptedEngine(), ScriptedEngine()
    padded.seconds = {1: 1.0, 8: 1.1}
    assert batches(exact) == [1] * 6
    assert batches(padded) == [1, 5]


def load_all(backend: LocalBackend, settings: Settings) -> dict[str, Ready | Failed]:
    """What comes of each model, by name."""
    repository = open_repository(settings)
    outcomes: dict[str, Ready | Failed] = {}

    async def load() -> None:
        async for model, outcome in backend.load(repository):
            outcomes[model.name] = outcome
            model.status = Status("ready" if isinstance(outcome, Ready) else "failed")

    asyncio.run(load())
    return outcomes


def test_a_model_whose_lanes_do_not_warm_up_fails_and_the_others_are_served(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoMemory(DynamicEngine):
        def prepare_thread(self) -> None:
            raise MemoryError("no memory left on the GPU")

    def opened(model: Model, settings: Settings) -> Engine:
        engine = open_engine(model, settings)
        if model.name == "resnet18":
            monkeypatch.setattr(engine, "prepare_thread", NoMemory.prepare_thread.__get__(engine))
        return engine

    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1)
    backend = LocalBackend(settings, Metrics(), open_engine=opened)
    outcomes = load_all(backend, settings)
    assert outcomes["resnet18"] == Failed(
        "its engine does not run on the threads of its lanes: no memory left on the GPU"
    )
    assert isinstance(outcomes["resnet8-cifar"], Ready)
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.exc_info is not None  # where in the engine it came from
    assert isinstance(record.exc_info[1], MemoryError)
    asyncio.run(backend.close())


def test_a_fault_that_has_nothing_to_do_with_lanes_is_not_told_as_one_of_them(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.local_runner.ExactSizes", lambda sizes: 1 / 0)
    backend = LocalBackend(
        Settings(models_dir=tiny_dir), Metrics(), open_engine=lambda model, settings: ScriptedEngine()
    )  # type: ignore[arg-type, return-value]
    outcomes = load_all(backend, Settings(models_dir=tiny_dir))
    assert set(outcomes.values()) == {Failed("loading it failed unexpectedly: ZeroDivisionError('division by zero')")}
    assert all(record.exc_info for record in caplog.records if record.levelname == "ERROR")
    asyncio.run(backend.close())


def test_models_are_loaded_together_at_the_start_and_one_by_one_beside_what_is_served(
    tiny_dir: Path, tmp_path: Path
) -> None:
    """As many at a time as there are cores."""
    at_once, most = 0, 0
    changing, together = threading.Lock(), threading.Barrier(2)

    def opened(model: Model, settings: Settings) -> Engine:
        nonlocal at_once, most
        with changing:
            at_once += 1
            most = max(most, at_once)
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2 if serving else 30)
        engine = open_engine(model, settings)
        with changing:
            at_once -= 1
        return engine

    root = copied(tiny_dir, tmp_path / "models")
    publish_copy(root, "another8")
    publish_copy(root, "third8")
    serving = False
    settings = Settings(models_dir=root, provider="cpu", max_batch=1, engine_threads=2)
    backend = LocalBackend(settings, Metrics(), open_engine=opened)
    assert len(load_all(backend, settings)) == 4
    assert most == 2
    asyncio.run(backend.close())
    serving, most = True, 0
    backend = LocalBackend(settings, Metrics(), open_engine=opened)

    async def change() -> None:
        repository = open_repository(settings)
        async for outcome in backend.changes(repository):
            if isinstance(outcome, tuple) and isinstance(outcome[1], Ready):
                model, _ = outcome
                model.status = Status("ready", info=outcome[1].info)
                repository.settle()
                if not repository.to_load():
                    return

    backend.reload()
    asyncio.run(change())
    assert most == 1
    asyncio.run(backend.close())


def test_it_closes_without_waiting_for_a_model_that_is_being_loaded(tiny_dir: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def opened(model: Model, settings: Settings) -> Engine:
        begun.set()
        assert gate.wait(30)
        return ScriptedEngine()  # type: ignore[return-value]

    settings = Settings(models_dir=tiny_dir, engine_threads=1)
    backend = LocalBackend(settings, Metrics(), open_engine=opened)

    async def scenario() -> None:
        loading = asyncio.ensure_future(anext(backend.load(open_repository(settings))))
        assert await asyncio.to_thread(begun.wait, 30)
        loading.cancel()
        await asyncio.wait_for(backend.close(), 60)

    before = set(threading.enumerate())
    asyncio.run(scenario())
    gate.set()
    until(lambda: set(threading.enumerate()) <= before)  # not even the lanes of that model are left


def test_an_unloaded_engine_is_freed_at_once(tiny_dir: Path) -> None:
    """Its session may take hundreds of megabytes and some threads. The garbage collector comes much later."""
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    model = served.model("resnet8-cifar")
    engine = weakref.ref(served.engines.pop(model.name))
    served.runners.clear()
    gc.disable()
    try:
        served.lifecycle._active.clear()
        served.run(served.backend.unload(model))
        until(lambda: engine() is None)  # the thread that loaded it may only now be letting go of it
    finally:
        gc.enable()
        served.close()


def test_a_broken_engine_ends_readiness(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    assert served.lifecycle.ready

    with failing(served.engines["resnet8-cifar"], "CUDA failure 700"):
        for _ in range(FAILURES):
            served.run(served.classify("resnet8-cifar", [photo], 1))
    served.close()
    assert not served.lifecycle.ready
    assert [type(error) for error in served.fatal] == [EngineBroken]


def test_the_settings_of_loading_reach_the_engine(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[dict[str, object]] = []

    def load_engine(folder: Path, card: object, **options: object) -> Engine:
        loads.append(options)
        raise ProviderUnavailable("not here")

    monkeypatch.setattr(local_backend, "load_engine", load_engine)
    monkeypatch.setattr(local_backend, "Cache", lambda folder: ("cache in", folder))
    model = open_repository(Settings(models_dir=tiny_dir)).get("resnet8-cifar")
    given = Settings.model_validate(
        {
            "provider": "cpu",
            "precision": "bf16",
            "engine_threads": 3,
            "max_batch": 5,
            "gpu": 1,
            "gpu_decoding": True,
            "cache_dir": tmp_path,
        }
    )
    for settings in (given, Settings()):
        with pytest.raises(ProviderUnavailable):
            open_engine(model, settings)
    assert loads[0] == {
        "provider": "cpu",
        "precision": "bf16",
        "threads": 3,
        "lanes": 3,
        "max_batch": 5,
        "gpu": 1,
        "gpu_decoding": True,
        "cache": ("cache in", tmp_path),
    }
    assert loads[1]["max_batch"] is None


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    """A model folder with a copy of `resnet8-cifar`, to be changed."""
    copied(tiny_dir / "resnet8-cifar", tmp_path / "models" / "resnet8-cifar")
    return tmp_path / "models"


def load(root: Path, **changes: object) -> Ready | Failed:
    settings = Settings.model_validate({"models_dir": root, "provider": "cpu", "max_batch": 1, **changes})
    backend = LocalBackend(settings, Metrics())
    outcome = load_all(backend, settings)["resnet8-cifar"]
    asyncio.run(backend.close())
    return outcome


def test_loading(root: Path) -> None:
    outcome = load(root, max_batch=2)
    assert isinstance(outcome, Ready)
    assert outcome.info.batch_sizes == (1, 2)
    assert outcome.info.precision == "fp32"


def test_a_model_has_as_many_lanes_as_threads(root: Path) -> None:
    outcome = load(root, engine_threads=3, precision="fp32", max_batch=1)
    assert isinstance(outcome, Ready)
    tuned = outcome.info.tuned
    assert tuned is not None
    assert {one.lanes for one in tuned.tuning.measured} == {1, 3}


def test_batch_sizes_are_measured_and_remembered(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.tuning.SECONDS", 0.0)
    remembered = []
    for _ in range(2):
        outcome = load(root, precision="fp32", engine_threads=1, max_batch=None, cache_dir=tmp_path / "cache")
        assert isinstance(outcome, Ready)
        assert outcome.info.tuned is not None
        assert outcome.info.batch_sizes == outcome.info.tuned.tuning.best.batch_sizes
        remembered.append(outcome.info.tuned.remembered)
    assert remembered == [False, True]


def test_a_model_with_the_files_of_another_gives_reasons_of_its_own(root: Path, tmp_path: Path) -> None:
    """Versions share files, and with them what was measured."""
    publish_copy(root, "another8")
    settings = Settings(models_dir=root, provider="cpu", max_batch=1, cache_dir=tmp_path / "cache")
    backend = LocalBackend(settings, Metrics())
    for name, outcome in load_all(backend, settings).items():
        assert isinstance(outcome, Ready)
        assert f"{name} 1 has no int8 file" in outcome.info.refused["cpu int8"]
    asyncio.run(backend.close())


def test_a_changed_file_is_not_served(root: Path) -> None:
    path = root / "resnet8-cifar" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    outcome = load(root)
    assert isinstance(outcome, Failed)
    assert "SHA-256" in outcome.reason


def test_a_missing_precision_fails_the_model_with_its_reason(root: Path) -> None:
    outcome = load(root, precision="int8")
    assert isinstance(outcome, Failed)
    assert "has no int8 file: make one with" in outcome.reason


def test_every_file_of_the_card_is_checked(root: Path) -> None:
    folder = root / "resnet8-cifar" / "1"
    (folder / "model.int8.onnx").write_bytes(b"not what was published")
    card = read_card(folder)
    entry = ModelFile(file="model.int8.onnx", sha256="0" * 64, bytes=22)
    (folder / "card.json").write_text(card.model_copy(update={"files": card.files | {"int8": entry}}).to_json())
    outcome = load(root, precision="fp32")
    assert isinstance(outcome, Failed)
    assert "model.int8.onnx has SHA-256" in outcome.reason
