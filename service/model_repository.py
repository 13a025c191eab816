"""The published models to serve: finds them in the model folder, and selects one by name or depth."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from service.errors import AmbiguousModel, UnknownModel
from service.runtime.engine import EngineInfo
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import CardError, explain_empty, model_versions, read_card
from service.settings import Settings

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]


class RepositoryError(Exception):
    """The model folder holds nothing to serve; the message names the remedy."""


class Status(NamedTuple):
    """How far a model is on its way to answering. Set by `lifecycle` only.

    Attributes:
        reason: why it failed.
        info: how it is computed, once it is ready.
    """

    state: State
    reason: str | None = None
    info: EngineInfo | None = None


LOADING = Status("loading")


class Model:
    """The latest published version of one model."""

    def __init__(self, path: Path, card: ModelCard) -> None:
        self.path = path
        self.card = card
        self.status = LOADING

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def depth(self) -> int:
        return self.card.architecture.depth


class Repository:
    """The models under a folder, each in its latest version.

    Args:
        root: the model folder.
        only: the names to serve; empty for all.
        default: the model for requests that name none; None for the shallowest.

    Raises:
        RepositoryError: nothing is published there, a name is unknown, or no card can be read.
    """

    def __init__(self, root: Path, *, only: Sequence[str] = (), default: str | None = None) -> None:
        try:
            latest = {entry.name: entry for entry in model_versions(root)}  # ascending: the highest version wins
        except CardError as error:
            raise RepositoryError(str(error)) from error
        if not latest:
            raise RepositoryError(explain_empty(root.resolve()))
        _require(only, latest, root)
        names = tuple(only or latest)
        _require([default] if default else [], names, root)
        self.root = root
        self.models: dict[str, Model] = {}
        self.unreadable: dict[str, str] = {}  # name -> why its card cannot be read
        for name in names:
            try:
                self.models[name] = Model(latest[name].path, read_card(latest[name].path))
            except CardError as error:
                log.error("%s is not served: %s", name, error)
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

    def select(self, name: str | None, depth: int | None) -> Model:
        """The model that a request asks for: by name, else by depth, else the default.

        Raises:
            UnknownModel: no model has this name or depth, or the named model has another depth.
            AmbiguousModel: several models have this depth, and none of them is the default.
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


def open_repository(settings: Settings) -> Repository:
    """The models that the settings name. Raises RepositoryError."""
    return Repository(settings.models_dir, only=settings.models, default=settings.default_model)


def _require(names: Sequence[str], there: Collection[str], root: Path) -> None:
    for name in names:
        if name not in there:
            raise RepositoryError(f"{root.resolve()} holds no model {name}: it holds {', '.join(there)}")
