"""The published models to serve: which versions there are, how far each is, and which one a request means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from service.errors import AmbiguousModel, ModelNotNamed, UnknownModel
from service.published import Listing, Stamp, list_published
from service.references import State, goals, settle
from service.runtime.engine import EngineInfo
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import CardError, read_card
from service.runtime.model_state import STATE_FILE, Unpublished, split
from service.settings import Settings

log = logging.getLogger(__name__)


class Status(NamedTuple):
    """How far a version is on its way to answering. Set by `lifecycle` only.

    Attributes:
        reason: why it failed.
        info: how it is computed, once it is ready.
    """

    state: State
    reason: str | None = None
    info: EngineInfo | None = None


LOADING = Status("loading")


class Model:
    """One published version of one model."""

    def __init__(self, stamp: Stamp, card: ModelCard) -> None:
        self.stamp = stamp
        self.path = stamp.path
        self.card = card
        self.status = LOADING

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def version(self) -> int:
        return self.card.version

    @property
    def depth(self) -> int:
        return self.card.architecture.depth

    @property
    def reference(self) -> str:
        """The version by name and number: `resnet50@3`."""
        return f"{self.name}@{self.version}"


class Change(NamedTuple):
    """A reference means another version from now on. None: nothing answered before, or nothing does now."""

    reference: str
    before: Model | None
    now: Model | None


class RepositoryError(Exception):
    """The model folder does not hold what the settings name; the message names the remedy."""


class Repository:
    """What is known of the published models. Changed on the event loop only, in each process on its own.

    Attributes:
        listing: what there was to serve when the model folder was last looked at.
        answering: by reference, the version that answers.
        unreadable: versions whose card cannot be read, with the reason.
    """

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.answering: dict[str, Model] = {}
        self.unreadable: dict[Stamp, str] = {}
        self._versions: dict[Stamp, Model] = {}
        self._elsewhere: Mapping[str, Stamp] = {}  # as of `follow`
        self._missing: set[str] = set()

    @property
    def default(self) -> str | None:
        """The reference for requests that name no model."""
        return self.listing.default

    @property
    def models(self) -> list[Model]:
        """What requests can mean, each once: the versions that answer, and those that shall where none does yet."""
        found = (self._of(reference) for reference in self.listing.wanted)
        return list(dict.fromkeys(model for model in found if model))

    @property
    def candidates(self) -> list[Model]:
        """Versions that shall answer and do not yet, or have failed to, while another one does."""
        shown = set(self.models)
        wanted = dict.fromkeys(stamp for stamps in self.listing.wanted.values() for stamp in stamps)
        known = (self._versions.get(stamp) for stamp in wanted)
        return [model for model in known if model and model not in shown and model.status.state != "ready"]

    @property
    def versions(self) -> list[Model]:
        """All that are known: ready, loading or failed."""
        return list(self._versions.values())

    @property
    def states(self) -> list[tuple[str, str, State]]:
        """Name, version and state of all that are known, also of those whose card cannot be read.

        Of a model of which nothing is known, the file that says which versions are meant stands for all.
        """
        unreadable = [(stamp.path.parent.name, stamp.path.name) for stamp in self.unreadable]
        return [
            *((model.name, str(model.version), model.status.state) for model in self.versions),
            *((name, version, "failed") for name, version in unreadable),
            *((name, STATE_FILE, "failed") for name in self.listing.faults),
        ]

    def references(self, model: Model) -> list[str]:
        """Those that mean this version now."""
        return [reference for reference in self.listing.wanted if self._of(reference) is model]

    def first_choice(self, reference: str) -> Model | None:
        """The version that shall answer, if its card can be read."""
        stamps = self.listing.wanted.get(reference)
        return self._versions.get(stamps[0]) if stamps else None

    def get(self, reference: str) -> Model:
        """Raises UnknownModel."""
        model = self._of(reference) or self._by_number(reference)
        if model is None:
            raise UnknownModel(wanted=f"the name {reference}", available=", ".join(self.listing.wanted))
        return model

    def select(self, reference: str | None, depth: int | None) -> Model:
        """The version that a request asks for: by reference, else by depth, else of the default model.

        Raises:
            UnknownModel: nothing has this reference or depth, or what has the reference has another depth.
            AmbiguousModel: several models have this depth, and none of them is the default.
            ModelNotNamed: the request names none, and there is no default.
        """
        if reference is not None:
            model = self.get(reference)
            if depth is not None and depth != model.depth:
                raise UnknownModel(wanted=f"the name {reference} and depth {depth}", available=self._by_depth())
            return model
        if depth is None:
            if self.default is None:
                raise ModelNotNamed(candidates=", ".join(self.listing.wanted))
            return self.get(self.default)
        of_depth = {name: model for name, model in self._by_name().items() if model.depth == depth}
        if not of_depth:
            raise UnknownModel(wanted=f"depth {depth}", available=self._by_depth())
        if len(of_depth) == 1:
            return next(iter(of_depth.values()))
        if self.default in of_depth:
            return of_depth[self.default]
        raise AmbiguousModel(depth=depth, candidates=", ".join(of_depth))

    def take(self, listing: Listing) -> None:
        """The model folder has been looked at again.

        A model that has gone is kept until it is missing twice in a row: a folder that is renamed away and back is no
        removal. The default model stays in any case, and so does one of which nothing is known at the moment.
        """
        names = {split(reference)[0] for reference in listing.wanted}
        before = {split(reference)[0] for reference in self.listing.wanted}
        faulty = before & listing.faults.keys()
        for name, fault in listing.faults.items():
            if fault != self.listing.faults.get(name):
                log.error("%s is %s: %s", name, "served as before" if name in faulty else "not served", fault)
        gone = before - names - faulty
        default = self.default and split(self.default)[0]
        if default in gone and default not in self._missing:
            log.error("%s has been removed from the model folder; as the default model, it is still served", default)
        kept = (gone - self._missing) | (gone & {default}) | faulty
        self._missing = gone
        wanted = {
            reference: stamps for reference, stamps in self.listing.wanted.items() if split(reference)[0] in kept
        } | dict(listing.wanted)
        self.listing = listing._replace(wanted=wanted, default=listing.default or self.default)

    def retry(self) -> None:
        """Makes versions that have failed count as new."""
        self.unreadable.clear()
        for model in self.versions:
            if model.status.state == "failed":
                del self._versions[model.stamp]

    def follow(self, listing: Listing, unreadable: Mapping[Stamp, str], answering: Mapping[str, Stamp]) -> None:
        """Takes over what another process has found.

        What answers there answers here, too, once it is ready here and until its successor is.
        """
        self.listing = listing
        self.unreadable = dict(unreadable)
        self._elsewhere = answering

    def put(self, model: Model) -> None:
        """A version that another process has read, or its newest state."""
        self._versions[model.stamp] = model

    def settle(self) -> tuple[list[Change], list[Model]]:
        """Decides anew which version answers to which reference.

        Returns:
            What has changed, and the ready versions that nobody needs any more, which are forgotten here.
        """
        before, states = self.answering, self._states()
        here = {reference: model.stamp for reference, model in before.items()}
        there = {reference: stamp for reference, stamp in self._elsewhere.items() if states.get(stamp) == "ready"}
        settled = settle(self.listing.wanted, states, here | there)
        self.answering = {reference: self._versions[stamp] for reference, stamp in settled.answering.items()}
        idle = [self._versions.pop(stamp) for stamp in settled.idle]
        wanted = {stamp for stamps in self.listing.wanted.values() for stamp in stamps}
        for model in self.versions:
            if model.status.state == "failed" and model.stamp not in wanted:
                del self._versions[model.stamp]
        self.unreadable = {stamp: reason for stamp, reason in self.unreadable.items() if stamp in wanted}
        changes = [
            Change(reference, before.get(reference), self.answering.get(reference))
            for reference in {**before, **self.answering}
            if before.get(reference) is not self.answering.get(reference)
        ]
        return changes, idle

    def to_load(self) -> list[Model]:
        """The versions that shall be loaded now."""
        known = [self._versions[stamp] for stamp in self._goals() if stamp in self._versions]
        return [model for model in known if model.status.state == "loading"]

    def read_cards(self) -> None:
        """Reads the cards of the versions that shall be loaded. Not for workers, which are told."""
        while unread := [stamp for stamp in self._goals() if stamp not in self._versions]:
            for stamp in unread:
                try:
                    self._versions[stamp] = Model(stamp, read_card(stamp.path))
                except CardError as error:
                    log.error("%s is not served: %s", stamp.path, error)
                    self.unreadable[stamp] = str(error)

    def _goals(self) -> list[Stamp]:
        """The versions to reach, each once."""
        return list(dict.fromkeys(goals(self.listing.wanted, self._states()).values()))

    def _states(self) -> Mapping[Stamp, State]:
        unreadable: dict[Stamp, State] = dict.fromkeys(self.unreadable, "failed")
        return unreadable | {stamp: model.status.state for stamp, model in self._versions.items()}

    def _of(self, reference: str) -> Model | None:
        """The version that answers to a reference; else the one that shall; else the one that failed to."""
        if reference in self.answering:
            return self.answering[reference]
        known = [self._versions[stamp] for stamp in self.listing.wanted.get(reference, ()) if stamp in self._versions]
        return next((model for model in known if model.status.state != "failed"), known[0] if known else None)

    def _by_number(self, reference: str) -> Model | None:
        """A version that is ready, whatever else it is called."""
        name, label = split(reference)
        for model in self._versions.values():
            if model.name == name and str(model.version) == label and model.status.state == "ready":
                return model
        return None

    def _by_name(self) -> dict[str, Model]:
        """What the names alone mean."""
        names = [reference for reference in self.listing.wanted if split(reference)[1] is None]
        return {name: model for name in names if (model := self._of(name))}

    def _by_depth(self) -> str:
        return ", ".join(f"{name} (depth {model.depth})" for name, model in self._by_name().items())


def open_repository(settings: Settings) -> Repository:
    """What there is to serve now, with the cards that can be read. Raises RepositoryError."""
    try:
        repository = Repository(list_published(settings, at_start=True))
    except (CardError, Unpublished) as error:
        raise RepositoryError(str(error)) from error
    for name, fault in repository.listing.faults.items():
        log.error("%s is not served: %s", name, fault)
    repository.read_cards()
    if not repository.models:
        reasons = (*repository.unreadable.values(), *repository.listing.faults.values())
        raise RepositoryError("no model can be served: " + "; ".join(reasons))
    return repository
