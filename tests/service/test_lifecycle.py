"""From loading to ready or failed, and from one version to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy, remove
from model_export.versions import promote
from service.backend import Backend, Failed, Ready, Runner
from service.errors import ModelFailed, ModelNotReady, UnknownModel
from service.lifecycle import Lifecycle, LoadingFailed, NothingServed
from service.model_repository import LOADING, Model, Repository, open_repository
from service.published import Listing, list_published
from service.runtime.engine import EngineInfo
from service.settings import Settings
from tests.service.served import Served
from tests.support.folders import copied
from tests.support.waiting import async_until

INFO = EngineInfo("cpu", "fp32")


class ScriptedBackend(Backend):
    """Yields what it is told, version by version; an exception is raised. It notes which versions it unloads."""

    def __init__(self, settings: Settings, outcomes: dict[str, EngineInfo | str | Exception]) -> None:
        """
        Args:
            outcomes: by `name@version`; ready if there is none.
        """
        self.settings = settings
        self.outcomes = outcomes
        self.unloaded: list[str] = []
        self.looks: asyncio.Queue[None] = asyncio.Queue()

    async def load(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        while model := next(iter(repository.to_load()), None):
            outcome = self.outcomes.get(titled(model), INFO)
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, str):
                yield model, Failed(outcome)
            else:
                yield model, Ready(outcome, f"the runner of {titled(model)}")  # type: ignore[arg-type]
            repository.read_cards()

    async def changes(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed] | Listing]:
        while True:
            await self.looks.get()
            repository.take(list_published(self.settings))
            yield repository.listing
            repository.read_cards()
            async for loaded in self.load(repository):
                yield loaded

    async def unload(self, model: Model) -> None:
        self.unloaded.append(titled(model))


def titled(model: Model) -> str:
    return f"{model.name}@{model.version}"


async def vacated(runner: Runner) -> None:
    """Nobody uses it."""


class Loaded:
    """A lifecycle over a model folder after loading, and what it told."""

    def __init__(
        self,
        models_dir: Path,
        outcomes: dict[str, EngineInfo | str | Exception],
        *,
        leads: bool = True,
        **settings: object,
    ) -> None:
        self.fatal: list[Exception] = []
        self.statuses: list[tuple[str, str]] = []
        given = Settings.model_validate({"models_dir": models_dir, "default_model": "resnet18", **settings})
        self.backend = ScriptedBackend(given, outcomes)
        self.repository = open_repository(given)
        self.vacated = vacated
        self.lifecycle: Lifecycle[Runner] = Lifecycle(
            self.repository,
            self.backend,
            lambda model, runner: runner,
            lambda runner: self.vacated(runner),
            self.fatal.append,
            self._note,
            given.models,
            leads,
        )
        self.was_ready = self.lifecycle.ready
        asyncio.run(self.lifecycle.load())

    def _note(self, news: Model | Listing) -> None:
        if isinstance(news, Model):
            self.statuses.append((titled(news), news.status.state))

    async def look(self) -> None:
        """Follows one look at the model folder."""
        following = asyncio.create_task(self.lifecycle.follow())
        self.backend.looks.put_nowait(None)
        await async_until(lambda: self.backend.looks.empty() and not self.repository.to_load())
        await asyncio.sleep(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_models_are_ready_one_by_one_and_hand_out_their_runners(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, {})
    assert (loaded.was_ready, loaded.lifecycle.ready, loaded.fatal) == (False, True, [])
    assert loaded.statuses == [("resnet18@1", "ready"), ("resnet8-cifar@1", "ready")]
    model = loaded.repository.get("resnet18")
    assert loaded.lifecycle.active(model) == "the runner of resnet18@1"  # type: ignore[comparison-overlap]
    assert model.status.info == INFO


def test_a_failed_model_does_not_stop_the_others(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, {"resnet8-cifar@1": "its file is damaged"})
    failed = loaded.repository.get("resnet8-cifar")
    assert (loaded.lifecycle.ready, loaded.fatal) == (True, [])
    assert (failed.status.state, failed.status.reason, failed.status.info) == ("failed", "its file is damaged", None)
    with pytest.raises(ModelFailed, match="resnet8-cifar is published, but"):
        loaded.lifecycle.active(failed)


@pytest.mark.parametrize("named", ["resnet18, resnet8-cifar", "resnet18, resnet8-cifar@1"])
def test_without_a_model_that_the_settings_name_it_is_not_ready(tiny_dir: Path, named: str) -> None:
    loaded = Loaded(tiny_dir, {"resnet8-cifar@1": "its file is damaged"}, models=named)
    assert (loaded.lifecycle.ready, loaded.fatal) == (False, [])
    assert Loaded(tiny_dir, {}, models=named).lifecycle.ready


def test_without_its_default_model_nothing_is_served(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, {"resnet18@1": "its file is damaged"})
    (error,) = loaded.fatal
    assert isinstance(error, NothingServed)
    assert str(error) == "the default model, resnet18, could not be loaded: resnet18 1: its file is damaged"
    assert not loaded.lifecycle.ready
    asyncio.run(asyncio.wait_for(loaded.lifecycle.follow(), 60))  # returns: there is nothing to follow


def test_without_a_default_some_model_must_answer(tiny_dir: Path, tmp_path: Path) -> None:
    root = copied(tiny_dir, tmp_path / "models")
    (root / "models.json").unlink()
    broken: dict[str, EngineInfo | str | Exception] = {"resnet18@1": "damaged", "resnet8-cifar@1": "damaged, too"}
    loaded = Loaded(root, broken, default_model=None)
    (error,) = loaded.fatal
    assert str(error) == "no model can be served: resnet18 1: damaged; resnet8-cifar 1: damaged, too"
    assert Loaded(root, {"resnet18@1": "damaged"}, default_model=None).lifecycle.ready


def test_an_unexpected_end_of_loading_is_fatal(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, {"resnet18@1": RuntimeError("a bug")})
    (error,) = loaded.fatal
    assert isinstance(error, LoadingFailed)
    assert str(error) == "loading ended unexpectedly: RuntimeError('a bug')"
    assert not loaded.lifecycle.ready


def test_given_up_it_is_never_ready_again(tiny_dir: Path) -> None:
    loaded = Loaded(tiny_dir, {})
    error = RuntimeError("the engine broke")
    loaded.lifecycle.give_up(error)
    assert not loaded.lifecycle.ready
    assert loaded.fatal == [error]


def test_it_sets_every_status_back_to_loading(tiny_dir: Path) -> None:
    """A worker starts with the repository of the engine process, whose models may be ready there."""
    loaded = Loaded(tiny_dir, {"resnet8-cifar@1": "its file is damaged"})
    again = Lifecycle(loaded.repository, loaded.backend, lambda model, runner: runner, vacated, loaded.fatal.append)
    assert {model.status for model in loaded.repository.versions} == {LOADING}
    with pytest.raises(ModelNotReady, match="Model resnet18 is still loading"):
        again.active(loaded.repository.get("resnet18"))


def test_it_says_which_models_are_ready(tiny_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="service.lifecycle")
    loaded = Loaded(tiny_dir, {"resnet8-cifar@1": "its file is damaged"})
    for _ in range(2):
        loaded.lifecycle.announce()
    assert caplog.messages == ["ready: resnet18"]  # once


def test_it_says_loudly_that_no_model_is_the_default(
    tiny_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copied(tiny_dir, tmp_path / "models")
    (root / "models.json").unlink()
    Loaded(root, {}, default_model=None).lifecycle.announce()
    message = caplog.messages[-1]
    assert message.startswith("no model is the default: requests that name none are refused; name one with")


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


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    return copied(tiny_dir, tmp_path / "models")


def test_a_version_that_cannot_be_unloaded_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = Loaded(root, {})
    publish_copy(root, "resnet18", 2, source="resnet18")

    async def unload(model: Model) -> None:
        raise RuntimeError("can't start new thread")

    loaded.backend.unload = unload  # type: ignore[method-assign]
    asyncio.run(loaded.look())
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.name == "service.lifecycle"
    assert record.getMessage() == "resnet18 1 could not be unloaded"
    assert record.exc_info


def test_a_worker_waits_for_what_must_answer(root: Path) -> None:
    """The engine process ends the service when nothing is served."""
    loaded = Loaded(root, {"resnet18@1": "its file is damaged"}, leads=False)
    assert (loaded.lifecycle.ready, loaded.fatal) == (False, [])
    publish_copy(root, "resnet18", 2, source="resnet18")
    asyncio.run(loaded.look())
    assert loaded.lifecycle.ready


def test_a_new_version_takes_over_and_the_old_one_is_unloaded_once_nobody_uses_it(root: Path) -> None:
    loaded = Loaded(root, {})
    old = loaded.repository.get("resnet18")
    publish_copy(root, "resnet18", 2, source="resnet18")
    gate = asyncio.Event()
    waited: list[Runner] = []

    async def used(runner: Runner) -> None:
        waited.append(runner)
        await gate.wait()

    loaded.vacated = used

    async def scenario() -> None:
        await loaded.look()
        new = loaded.repository.get("resnet18")
        assert new.version == 2
        assert loaded.lifecycle.active(new) == "the runner of resnet18@2"  # type: ignore[comparison-overlap]
        assert loaded.lifecycle.ready
        await async_until(lambda: waited == ["the runner of resnet18@1"])  # type: ignore[comparison-overlap]
        assert loaded.backend.unloaded == []
        gate.set()
        await async_until(lambda: loaded.backend.unloaded == ["resnet18@1"])
        with pytest.raises(ModelNotReady):
            loaded.lifecycle.active(old)

    asyncio.run(scenario())


def test_a_version_that_fails_leaves_the_old_one_at_work(root: Path) -> None:
    loaded = Loaded(root, {"resnet18@2": "its file is damaged"})
    publish_copy(root, "resnet18", 2, source="resnet18")
    asyncio.run(loaded.look())
    model = loaded.repository.get("resnet18")
    assert loaded.lifecycle.active(model) == "the runner of resnet18@1"  # type: ignore[comparison-overlap]
    assert [model.status.reason for model in loaded.repository.candidates] == ["its file is damaged"]
    assert loaded.lifecycle.ready
    assert loaded.backend.unloaded == []


def test_at_the_start_an_older_version_takes_the_place_of_one_that_fails(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (2, 3):
        publish_copy(root, "resnet18", number, source="resnet18")
    loaded = Loaded(root, {"resnet18@3": "its file is damaged"})
    assert loaded.lifecycle.ready
    assert loaded.repository.get("resnet18").version == 2
    assert ("resnet18@3", "failed") in loaded.statuses
    assert "resnet18: version 2 answers, as version 3 cannot be served: its file is damaged" in caplog.messages


def test_a_removed_model_is_unknown_and_unloaded(root: Path) -> None:
    loaded = Loaded(root, {})
    remove(root / "resnet8-cifar" / "1")

    async def scenario() -> None:
        for _ in range(2):
            await loaded.look()
        await async_until(lambda: loaded.backend.unloaded == ["resnet8-cifar@1"])

    asyncio.run(scenario())
    with pytest.raises(UnknownModel):
        loaded.repository.get("resnet8-cifar")
    assert loaded.lifecycle.ready


def test_a_promotion_loads_nothing_that_is_there(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="service.lifecycle")
    promote(root, "resnet18", 1)
    publish_copy(root, "resnet18", 2, source="resnet18")
    promote(root, "resnet18", 2, "canary")
    loaded = Loaded(root, {})
    before = list(loaded.statuses)
    promote(root, "resnet18", 2)
    asyncio.run(loaded.look())
    assert loaded.statuses == before
    assert loaded.repository.get("resnet18") is loaded.repository.get("resnet18@canary")
    assert "resnet18: version 2 answers instead of 1" in caplog.messages
