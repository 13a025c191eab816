"""From loading to ready or failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from service.backend import Backend, Failed, Ready, Removed, Runner
from service.errors import ModelFailed, ModelNotReady, UnknownModel
from service.lifecycle import Lifecycle, LoadingFailed, NothingServed
from service.model_repository import LOADING, Model, Repository
from service.runtime.engine import EngineInfo
from tests.service.served import Served
from tests.support.folders import copied
from tests.support.waiting import async_until

INFO = EngineInfo("cpu", "fp32")


class ScriptedBackend(Backend):
    """Yields what it is told, model by model; an exception is raised."""

    def __init__(self, **outcomes: EngineInfo | str | Exception) -> None:
        self.outcomes = {name.replace("_", "-"): outcome for name, outcome in outcomes.items()}

    async def load(self, models: Iterable[Model]) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        for model in models:
            outcome = self.outcomes[model.name]
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, str):
                yield model, Failed(outcome)
            else:
                yield model, Ready(outcome, f"the runner of {model.name}")  # type: ignore[arg-type]


async def vacated(runner: Runner) -> None:
    """Nobody uses it."""


class Loaded:
    """A lifecycle over `resnet18` and `resnet8-cifar` after loading, and what it told."""

    def __init__(self, models_dir: Path, **outcomes: EngineInfo | str | Exception) -> None:
        self.fatal: list[Exception] = []
        self.statuses: list[tuple[str, str]] = []
        self.repository = Repository(models_dir, default="resnet18")
        self.lifecycle: Lifecycle[Runner] = Lifecycle(
            self.repository,
            ScriptedBackend(**outcomes),
            lambda model, runner: runner,
            vacated,
            self.fatal.append,
            lambda model, outcome: self.statuses.append((model.name, model.status.state)),
        )
        self.was_ready = self.lifecycle.ready
        asyncio.run(self.lifecycle.load())


def test_models_are_ready_one_by_one_and_hand_out_their_runners(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, resnet18=INFO, resnet8_cifar=INFO)
    assert (loaded.was_ready, loaded.lifecycle.ready, loaded.fatal) == (False, True, [])
    assert loaded.statuses == [("resnet18", "ready"), ("resnet8-cifar", "ready")]
    model = loaded.repository.get("resnet18")
    assert loaded.lifecycle.active(model) == "the runner of resnet18"  # type: ignore[comparison-overlap]
    assert model.status.info == INFO


def test_a_failed_model_does_not_stop_the_others(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, resnet18=INFO, resnet8_cifar="its file is damaged")
    failed = loaded.repository.get("resnet8-cifar")
    assert (loaded.lifecycle.ready, loaded.fatal) == (True, [])
    assert (failed.status.state, failed.status.reason, failed.status.info) == ("failed", "its file is damaged", None)
    with pytest.raises(ModelFailed, match="resnet8-cifar is published, but"):
        loaded.lifecycle.active(failed)


def test_without_its_default_model_nothing_is_served(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, resnet18="its file is damaged", resnet8_cifar=INFO)
    (error,) = loaded.fatal
    assert isinstance(error, NothingServed)
    assert str(error) == "the default model, resnet18, could not be loaded: resnet18: its file is damaged"
    assert not loaded.lifecycle.ready


def test_an_unexpected_end_of_loading_is_fatal(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, resnet18=RuntimeError("a bug"))
    (error,) = loaded.fatal
    assert isinstance(error, LoadingFailed)
    assert str(error) == "loading ended unexpectedly: RuntimeError('a bug')"
    assert not loaded.lifecycle.ready


def test_given_up_it_is_never_ready_again(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, resnet18=INFO, resnet8_cifar=INFO)
    error = RuntimeError("the engine broke")
    loaded.lifecycle.give_up(error)
    assert not loaded.lifecycle.ready
    assert loaded.fatal == [error]


def test_it_sets_every_status_back_to_loading(tiny_dir: Path) -> None:
    """A worker starts with the repository of the engine process, whose models may be ready there."""
    loaded = Loaded(tiny_dir, resnet18=INFO, resnet8_cifar="its file is damaged")
    again = Lifecycle(loaded.repository, ScriptedBackend(), lambda model, runner: runner, vacated, loaded.fatal.append)
    assert {model.status for model in loaded.repository.models.values()} == {LOADING}
    with pytest.raises(ModelNotReady, match="Model resnet18 is still loading"):
        again.active(loaded.repository.get("resnet18"))


def test_it_says_which_models_are_ready(tiny_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="service.lifecycle")
    Loaded(tiny_dir, resnet18=INFO, resnet8_cifar="its file is damaged").lifecycle.announce()
    assert caplog.messages == ["ready: resnet18"]


def test_loading_can_be_cancelled(tiny_dir: Path) -> None:
    served = Served(tiny_dir)

    async def scenario() -> None:
        loading = asyncio.create_task(served.lifecycle.load())
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)

    served.run(scenario())
    served.close()
    assert served.model("resnet8-cifar").status == LOADING
    assert not served.lifecycle.ready


def test_a_damaged_model_fails_and_the_default_stays(tiny_dir: Path, tmp_path: Path) -> None:
    root = copied(tiny_dir, tmp_path / "models")
    (root / "resnet8-cifar" / "1" / "model.onnx").write_bytes(b"")
    served = Served(root, default_model="resnet18").load()
    served.pipeline("resnet18")
    with pytest.raises(ModelFailed):
        served.pipeline("resnet8-cifar")
    assert served.lifecycle.ready
    served.close()


def version(models_dir: Path, name: str, number: int) -> Model:
    """A later version, as far as its card says."""
    model = Repository(models_dir).get(name)
    model.card = model.card.model_copy(update={"version": number})
    return model


class Changing(ScriptedBackend):
    """A backend whose changes are given; it notes which versions it unloads."""

    def __init__(self, *changes: tuple[Model, Ready | Failed | Removed]) -> None:
        super().__init__(resnet18=INFO, resnet8_cifar=INFO)
        self.given = changes
        self.unloaded: list[tuple[str, int]] = []

    async def changes(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed | Removed]]:
        for change in self.given:
            yield change

    async def unload(self, model: Model) -> None:
        self.unloaded.append((model.name, model.card.version))


def ready(runner: str) -> Ready:
    return Ready(INFO, runner)  # type: ignore[arg-type]


def test_a_new_version_takes_over_and_the_old_one_is_unloaded_once_nobody_uses_it(tiny_dir: Path) -> None:
    repository = Repository(tiny_dir, default="resnet18")
    old, new = repository.get("resnet18"), version(tiny_dir, "resnet18", 2)
    backend = Changing((new, ready("the new runner")))
    gate = asyncio.Event()
    waited: list[Runner] = []

    async def used(runner: Runner) -> None:
        waited.append(runner)
        await gate.wait()

    lifecycle: Lifecycle[Runner] = Lifecycle(repository, backend, lambda model, runner: runner, used, pytest.fail)

    async def scenario() -> None:
        await lifecycle.load()
        await lifecycle.follow()
        assert repository.get("resnet18") is new
        assert lifecycle.active(new) == "the new runner"  # type: ignore[comparison-overlap]
        assert lifecycle.ready
        await async_until(lambda: waited == ["the runner of resnet18"])  # type: ignore[comparison-overlap]
        assert backend.unloaded == []
        gate.set()
        await async_until(lambda: backend.unloaded == [("resnet18", 1)])
        with pytest.raises(ModelNotReady):
            lifecycle.active(old)

    asyncio.run(scenario())


def test_a_version_that_fails_leaves_the_old_one_at_work(tiny_dir: Path) -> None:
    repository = Repository(tiny_dir, default="resnet18")
    old, new = repository.get("resnet18"), version(tiny_dir, "resnet18", 2)
    backend = Changing((new, Failed("its file is damaged")))
    lifecycle: Lifecycle[Runner] = Lifecycle(repository, backend, lambda model, runner: runner, vacated, pytest.fail)

    async def scenario() -> None:
        await lifecycle.load()
        await lifecycle.follow()

    asyncio.run(scenario())
    assert new.status.reason == "its file is damaged"
    assert lifecycle.active(repository.get("resnet18")) == "the runner of resnet18"  # type: ignore[comparison-overlap]
    assert repository.get("resnet18") is old
    assert lifecycle.ready
    assert backend.unloaded == []


def test_a_removed_model_is_unknown_and_unloaded(tiny_dir: Path) -> None:
    repository = Repository(tiny_dir, default="resnet18")
    backend = Changing((repository.get("resnet8-cifar"), Removed()))
    lifecycle: Lifecycle[Runner] = Lifecycle(repository, backend, lambda model, runner: runner, vacated, pytest.fail)

    async def scenario() -> None:
        await lifecycle.load()
        await lifecycle.follow()
        await async_until(lambda: backend.unloaded == [("resnet8-cifar", 1)])

    asyncio.run(scenario())
    with pytest.raises(UnknownModel):
        repository.get("resnet8-cifar")
    assert lifecycle.ready
