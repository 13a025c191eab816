"""From loading to ready or failed: the only place that changes a model's status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from service.backend import Backend, Failed, Runner
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
        on_fatal: called once nothing will be served any more: with NothingServed or LoadingFailed on the event loop, or
            with what `give_up` is told, on its thread.
        on_status: called on the event loop when a model is ready or has failed.
    """

    def __init__(
        self,
        repository: Repository,
        backend: Backend,
        activate: Callable[[Model, Runner], Active],
        on_fatal: Callable[[Exception], None],
        on_status: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self._repository = repository
        self._backend = backend
        self._activate = activate
        self._on_fatal = on_fatal
        self._on_status = on_status
        self._active: dict[str, Active] = {}
        self._given_up = False
        for model in repository.models.values():  # a worker gets the repository with the engine process's statuses
            model.status = LOADING

    async def load(self) -> None:
        """Loads every model; each one answers as soon as it is ready."""
        try:
            async for model, outcome in self._backend.load(self._repository.models.values()):
                if isinstance(outcome, Failed):
                    model.status = Status("failed", reason=outcome.reason)
                else:
                    self._active[model.name] = self._activate(model, outcome.runner)
                    model.status = Status("ready", info=outcome.info)
                self._on_status(model)
            self._require_default()
        except NothingServed as error:
            self.give_up(error)
        except Exception as error:
            log.exception("loading ended unexpectedly")
            self.give_up(LoadingFailed(f"loading ended unexpectedly: {error!r}"))

    def give_up(self, error: Exception) -> None:
        """Turns readiness off for good. From any thread."""
        self._given_up = True
        self._on_fatal(error)

    @property
    def ready(self) -> bool:
        """Whether every model is ready or has failed, the default model answers, and nobody has given up."""
        loaded = all(model.status != LOADING for model in self._repository.models.values())
        return loaded and self._repository.default in self._active and not self._given_up

    def active(self, model: Model) -> Active:
        """What `activate` made of a ready model. Raises ModelNotReady or ModelFailed."""
        if model.status.state == "failed":
            raise ModelFailed(model=model.name)
        if model.name not in self._active:
            raise ModelNotReady(model=model.name, retry_after=RETRY_AFTER)
        return self._active[model.name]

    def announce(self) -> None:
        """Logs which models are ready."""
        log.info("ready: %s", ", ".join(self._active))

    def _require_default(self) -> None:
        repository = self._repository
        if repository.models[repository.default].status.state == "failed":
            reasons = "; ".join(f"{m.name}: {m.status.reason}" for m in repository.models.values() if m.status.reason)
            raise NothingServed(f"the default model, {repository.default}, could not be loaded: {reasons}")
