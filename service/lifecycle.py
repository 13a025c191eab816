"""From loading to ready or failed, and from one version to the next: the only place that changes a model's status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.backend import Backend, Failed, Ready, Runner
from service.errors import ModelFailed, ModelNotReady
from service.model_repository import LOADING, Change, Model, Repository, Status
from service.published import Listing

log = logging.getLogger(__name__)

# Seconds after which a client should ask again for a model that is loading: about what loading takes.
RETRY_AFTER = 5

Active = TypeVar("Active")


class NothingServed(Exception):
    """The default model, or every model, could not be served at the start; the message says why."""


class LoadingFailed(Exception):
    """Loading ended with an unexpected error."""


class Lifecycle(Generic[Active]):
    """Loads the models of a repository through a backend, and knows which of them answer.

    Args:
        activate: puts a ready model to work; `active` hands out what it returns.
        vacated: returns once no request uses any more what `activate` returned.
        on_fatal: called once nothing will be served any more: with NothingServed or LoadingFailed on the event loop, or
            with what `give_up` is told, on its thread.
        on_change: called on the event loop after a version is ready or has failed, or there is another listing.
        required: references that must be answered for the service to be ready, beside the default.
        leads: False for a worker. The engine process says which version answers, and ends the service if nothing is
            served.
    """

    def __init__(
        self,
        repository: Repository,
        backend: Backend,
        activate: Callable[[Model, Runner], Active],
        vacated: Callable[[Active], Awaitable[None]],
        on_fatal: Callable[[Exception], None],
        on_change: Callable[[Model | Listing], None] = lambda news: None,
        required: Sequence[str] = (),
        leads: bool = True,
    ) -> None:
        self._repository = repository
        self._backend = backend
        self._activate = activate
        self._on_fatal = on_fatal
        self._vacated = vacated
        self._on_change = on_change
        self._required = required
        self._leads = leads
        self._active: dict[Model, Active] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._loaded = False
        self._given_up = False
        self._announced = False
        repository.answering.clear()  # a worker gets the repository with the states of the engine process
        for model in repository.versions:
            model.status = LOADING

    async def load(self) -> None:
        """Loads what there is to serve; each version answers as soon as it is ready."""
        try:
            async for model, outcome in self._backend.load(self._repository):
                self._apply(model, outcome)
            if self._leads:
                self._require_answers()
            self._loaded = True
        except NothingServed as error:
            self.give_up(error)
        except Exception as error:
            log.exception("loading ended unexpectedly")
            self.give_up(LoadingFailed(f"loading ended unexpectedly: {error!r}"))

    async def follow(self) -> None:
        """After `load`: puts new versions to work and takes removed ones away, until it is cancelled.

        Also where what must answer does not yet: it may be published again. Returns at once after `give_up`.

        A new version answers requests once it is ready. What has begun on the old one is finished there.
        """
        if self._given_up:
            return
        try:
            async for news in self._backend.changes(self._repository):
                if isinstance(news, Listing):
                    self._settle()
                    self._on_change(news)
                else:
                    self._apply(*news)
        except Exception as error:
            log.exception("following the model folder ended unexpectedly")
            self.give_up(LoadingFailed(f"following the model folder ended unexpectedly: {error!r}"))

    def give_up(self, error: Exception) -> None:
        """Turns readiness off for good. From any thread."""
        self._given_up = True
        self._on_fatal(error)

    @property
    def ready(self) -> bool:
        """Whether loading has ended, what must be answered is, and nobody has given up."""
        answering = self._repository.answering
        return (
            self._loaded
            and not self._given_up
            and bool(answering)
            and (self._repository.default is None or self._repository.default in answering)
            and all(reference in answering for reference in self._required)
        )

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
        """Logs which models are ready, once, if the service is."""
        if not self._leads or self._announced or not self.ready:
            return
        self._announced = True
        log.info("ready: %s", ", ".join(self._repository.answering))
        if self._repository.default is None:
            log.warning(
                "no model is the default: requests that name none are refused; name one with "
                "`python -m model_export default NAME`, or with the setting default_model"
            )

    def _apply(self, model: Model, outcome: Ready | Failed) -> None:
        if isinstance(outcome, Failed):
            model.status = Status("failed", reason=outcome.reason)
        else:
            self._active[model] = self._activate(model, outcome.runner)
            model.status = Status("ready", info=outcome.info)
        self._repository.put(model)
        self._settle()
        self._on_change(model)

    def _settle(self) -> None:
        changes, idle = self._repository.settle()
        for change in changes if self._leads else ():
            _log(change, self._repository.first_choice(change.reference), loaded=self._loaded)
        for model in idle:
            self._take_away(model)

    def _take_away(self, model: Model) -> None:
        """Unloads a model once the requests that began with it have ended."""
        active = self._active.pop(model)

        async def leave() -> None:
            try:
                await self._vacated(active)
                await self._backend.unload(model)
            except Exception:
                log.exception("%s %d could not be unloaded", model.name, model.version)
                return
            if self._leads:
                log.info("%s %d is unloaded", model.name, model.version)

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _require_answers(self) -> None:
        """Raises NothingServed if the service could not answer the default request, or none at all."""
        repository = self._repository
        reasons = "; ".join(
            [
                *(f"{m.name} {m.version}: {m.status.reason}" for m in repository.versions if m.status.reason),
                *repository.unreadable.values(),
                *repository.listing.faults.values(),
            ]
        )
        if repository.default is not None and repository.default not in repository.answering:
            raise NothingServed(f"the default model, {repository.default}, could not be loaded: {reasons}")
        if not repository.answering:
            raise NothingServed(f"no model can be served: {reasons}")


def _log(change: Change, wanted: Model | None, *, loaded: bool) -> None:
    """What clients get from now on, where it is not what they expect."""
    reference, before, now = change
    if now and wanted and wanted.status.state == "failed":
        log.error(
            "%s: version %d answers, as version %d cannot be served: %s",
            *(reference, now.version, wanted.version, wanted.status.reason),
        )
    elif now is None:
        log.info("%s is not published any more", reference)
    elif before is not None:
        log.info("%s: version %d answers instead of %d", reference, now.version, before.version)
    elif loaded:
        log.info("%s: version %d answers", reference, now.version)
