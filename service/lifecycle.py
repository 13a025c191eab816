"""From loading to ready or failed, and from one version to the next: the only place that changes a model's status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from service.backend import Backend, Failed, Ready, Removed, Runner
from service.errors import ModelFailed, ModelNotReady
from service.model_repository import LOADING, Model, Repository, Status

log = logging.getLogger(__name__)

# Seconds after which a client should ask again for a model that is loading: about what loading takes.
RETRY_AFTER = 5

Active = TypeVar("Active")


class NothingServed(Exception):
    """The default model failed to load; the message says why."""


class LoadingFailed(Exception):
    """Loading ended with an unexpected error."""


class Lifecycle(Generic[Active]):
    """Loads the models of a repository through a backend, and knows which of them answer.

    Args:
        activate: puts a ready model to work; `active` hands out what it returns.
        vacated: returns once no request uses any more what `activate` returned.
        on_fatal: called once nothing will be served any more: with NothingServed or LoadingFailed on the event loop, or
            with what `give_up` is told, on its thread.
        on_change: called on the event loop after a model is ready, has failed or has been removed.
    """

    def __init__(
        self,
        repository: Repository,
        backend: Backend,
        activate: Callable[[Model, Runner], Active],
        vacated: Callable[[Active], Awaitable[None]],
        on_fatal: Callable[[Exception], None],
        on_change: Callable[[Model, Ready | Failed | Removed], None] = lambda model, outcome: None,
    ) -> None:
        self._repository = repository
        self._backend = backend
        self._activate = activate
        self._on_fatal = on_fatal
        self._vacated = vacated
        self._on_change = on_change
        self._active: dict[Model, Active] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._loaded = False
        self._given_up = False
        for model in repository.models.values():  # a worker gets the repository with the engine process's statuses
            model.status = LOADING

    async def load(self) -> None:
        """Loads every model; each one answers as soon as it is ready."""
        try:
            async for model, outcome in self._backend.load(list(self._repository.models.values())):
                self._apply(model, outcome)
            self._require_default()
            self._loaded = True
        except NothingServed as error:
            self.give_up(error)
        except Exception as error:
            log.exception("loading ended unexpectedly")
            self.give_up(LoadingFailed(f"loading ended unexpectedly: {error!r}"))

    async def follow(self) -> None:
        """After `load`: puts new versions to work and takes removed models away, until it is cancelled.

        A new version answers requests once it is ready. What has begun on the old one is finished there.
        """
        try:
            async for model, outcome in self._backend.changes(self._repository):
                self._apply(model, outcome)
        except Exception as error:
            log.exception("following the model folder ended unexpectedly")
            self.give_up(LoadingFailed(f"following the model folder ended unexpectedly: {error!r}"))

    def give_up(self, error: Exception) -> None:
        """Turns readiness off for good. From any thread."""
        self._given_up = True
        self._on_fatal(error)

    @property
    def ready(self) -> bool:
        """Whether every model is ready or has failed, the default model answers, and nobody has given up."""
        default = self._repository.models[self._repository.default]
        return self._loaded and default in self._active and not self._given_up

    def active(self, model: Model) -> Active:
        """What `activate` made of a ready model. Raises ModelNotReady or ModelFailed."""
        if model.status.state == "failed":
            raise ModelFailed(model=model.name)
        if model not in self._active:
            raise ModelNotReady(model=model.name, retry_after=RETRY_AFTER)
        return self._active[model]

    @property
    def actives(self) -> list[Active]:
        """What `activate` made of all ready models."""
        return list(self._active.values())

    def announce(self) -> None:
        """Logs which models are ready."""
        log.info("ready: %s", ", ".join(model.name for model in self._active))

    def _apply(self, model: Model, outcome: Ready | Failed | Removed) -> None:
        if isinstance(outcome, Failed):
            model.status = Status("failed", reason=outcome.reason)
        elif isinstance(outcome, Removed):
            self._repository.remove(model)
            log.info("%s is not published any more", model.name)
            self._take_away(model)
        else:
            self._active[model] = self._activate(model, outcome.runner)
            model.status = Status("ready", info=outcome.info)
            if before := self._repository.put(model):
                log.info("%s: version %d answers instead of %d", model.name, model.card.version, before.card.version)
                self._take_away(before)
        self._on_change(model, outcome)

    def _take_away(self, model: Model) -> None:
        """Unloads a model once the requests that began with it have ended."""
        active = self._active.pop(model, None)
        if active is None:  # it had failed
            return

        async def leave() -> None:
            await self._vacated(active)
            await self._backend.unload(model)
            log.info("%s %d is unloaded", model.name, model.card.version)

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _require_default(self) -> None:
        repository = self._repository
        if repository.models[repository.default].status.state == "failed":
            reasons = "; ".join(f"{m.name}: {m.status.reason}" for m in repository.models.values() if m.status.reason)
            raise NothingServed(f"the default model, {repository.default}, could not be loaded: {reasons}")
