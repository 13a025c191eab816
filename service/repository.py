"""The published models that are served: found, loaded, and chosen by name or depth."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from service.card import CardError, ModelCard, nothing_in, published, verify_digests
from service.engine import Engine, EngineInfo, SelfTestFailed
from service.errors import AmbiguousModel, UnknownModel
from service.loading import load_engine
from service.providers import PrecisionChoice, ProviderChoice, ProviderUnavailable
from service.tuning import Cache

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]


class RepositoryError(Exception):
    """The model folder holds nothing that can be served; the message names the remedy."""


class NothingServed(Exception):
    """The default model, which most requests mean, failed to load; the message says why."""


class Model:
    """The latest published version of one model, and its engine once it is loaded.

    Attributes:
        state: `loading`; `failed` after `load` went wrong, with the reason in `reason`; `ready` once it answers
            (set by whoever puts it to work).
        info: how it is computed, once it is loaded.
        engine: what computes it, in the process that does.
    """

    def __init__(self, path: Path, card: ModelCard) -> None:
        self.path = path
        self.card = card
        self.state: State = "loading"
        self.reason: str | None = None
        self.info: EngineInfo | None = None
        self.engine: Engine | None = None

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def depth(self) -> int:
        return self.card.architecture.depth

    def load(
        self,
        provider: ProviderChoice,
        precision: PrecisionChoice,
        *,
        threads: int,
        max_batch: int | None = None,
        cache: Cache | None = None,
        gpu: int = 0,
    ) -> None:
        """Checks the files' digests, then opens, tunes and proves the engine. Never raises for a bad model."""
        try:
            verify_digests(self.path, self.card)
            self.engine = load_engine(
                self.path,
                self.card,
                provider=provider,
                precision=precision,
                threads=threads,
                lanes=threads,
                max_batch=max_batch,
                cache=cache,
                gpu=gpu,
            )
            self.info = self.engine.info
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            self.fail(str(error))

    def fail(self, reason: str) -> None:
        """Gives the model up, and lets go of its engine."""
        log.error("%s %d: not served: %s", self.name, self.card.version, reason)
        self.state, self.reason = "failed", reason
        self.engine = self.info = None


class Repository:
    """The models under a folder, each in its latest version.

    Args:
        root: the model folder.
        only: the names to serve; empty for all.
        default: the model that answers where a request names none; None for the shallowest.

    Raises:
        RepositoryError: nothing is published there, a name is not, or no card can be read.
    """

    def __init__(self, root: Path, *, only: Sequence[str] = (), default: str | None = None) -> None:
        try:
            latest = {entry.name: entry for entry in published(root)}  # ascending by version: the last one stays
        except CardError as error:
            raise RepositoryError(str(error)) from error
        if not latest:
            raise RepositoryError(nothing_in(root.resolve()))
        _require(only, latest, root)
        names = tuple(only or latest)
        _require([default] if default else [], names, root)
        self.models: dict[str, Model] = {}
        self.unreadable: dict[str, str] = {}  # name -> why its card cannot be read
        for name in names:
            try:
                self.models[name] = Model(latest[name].path, ModelCard.read(latest[name].path))
            except CardError as error:
                log.error("%s: not served: %s", name, error)
                self.unreadable[name] = str(error)
        if not self.models:
            raise RepositoryError("no model can be served: " + "; ".join(self.unreadable.values()))
        if default in self.unreadable:
            raise RepositoryError(f"the default model cannot be served: {self.unreadable[default]}")
        self.default = default or min(self.models.values(), key=lambda model: (model.depth, model.name)).name

    def get(self, name: str) -> Model:
        """Raises UnknownModel."""
        if name not in self.models:
            raise UnknownModel(wanted=f"the name {name}", available=", ".join(self.models))
        return self.models[name]

    def require_default(self) -> None:
        """Raises NothingServed when the default model has failed."""
        if self.models[self.default].state == "failed":
            reasons = "; ".join(f"{m.name}: {m.reason}" for m in self.models.values() if m.reason)
            raise NothingServed(f"the default model, {self.default}, could not be loaded: {reasons}")

    def select(self, name: str | None, depth: int | None) -> Model:
        """The model that a request means: by name, else by depth, else the default.

        Raises:
            UnknownModel: there is none of this name, none of this depth, or the name is that of another depth.
            AmbiguousModel: several have this depth, and none of them is the default.
        """
        if name is not None:
            model = self.get(name)
            if depth is not None and depth != model.depth:
                raise UnknownModel(wanted=f"the name {name} and depth {depth}", available=self._by_depth())
            return model
        if depth is None:
            return self.models[self.default]
        of_depth = [model for model in self.models.values() if model.depth == depth]
        if not of_depth:
            raise UnknownModel(wanted=f"depth {depth}", available=self._by_depth())
        if len(of_depth) > 1:
            if self.models[self.default] in of_depth:
                return self.models[self.default]
            raise AmbiguousModel(depth=depth, candidates=", ".join(model.name for model in of_depth))
        return of_depth[0]

    def _by_depth(self) -> str:
        return ", ".join(f"{model.name} (depth {model.depth})" for model in self.models.values())


def _require(names: Sequence[str], there: Collection[str], root: Path) -> None:
    for name in names:
        if name not in there:
            raise RepositoryError(
                f"there is no model {name} to serve from {root.resolve()}: there is {', '.join(there)}"
            )
