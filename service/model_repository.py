"""The published models to serve: finds them in the model folder, notices new versions, selects one by name or depth."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from service.errors import AmbiguousModel, UnknownModel
from service.runtime.engine import EngineInfo
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import (
    CARD_FILE,
    VERSION_PATTERN,
    CardError,
    explain_empty,
    model_versions,
    read_card,
)
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


class Stamp(NamedTuple):
    """Tells one published version from another, and from a later one under the same number."""

    path: Path
    card: tuple[int, int, int] | None  # inode, bytes and time of change of its card; None without one

    @classmethod
    def of(cls, path: Path) -> Stamp:
        try:
            stat = (path / CARD_FILE).stat()
        except OSError:
            return cls(path, None)
        return cls(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


class Model:
    """One published version of one model."""

    def __init__(self, path: Path, card: ModelCard, stamp: Stamp | None = None) -> None:
        """
        Args:
            stamp: from before the card was read, so that a change meanwhile is noticed; None takes it now.
        """
        self.path = path
        self.card = card
        self.stamp = stamp or Stamp.of(path)
        self.status = LOADING

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def depth(self) -> int:
        return self.card.architecture.depth


class Changes(NamedTuple):
    """What is different in the model folder."""

    candidates: list[Model]  # to load
    removed: list[Model]  # to serve no more


class Repository:
    """The models under a folder, each in its latest version.

    Attributes:
        models: by name, those that answer requests, will do so, or failed at the start.
        candidates: by name, versions published since, which are loading or have failed.
        unreadable: by name, why a card cannot be read.
        default: the name of the model for requests that name none.

    Args:
        root: the model folder.
        only: the names to serve; empty for all.
        default: the model for requests that name none; None for the shallowest.

    Raises:
        RepositoryError: nothing is published there, a name is unknown, or no card can be read.
    """

    def __init__(self, root: Path, *, only: Sequence[str] = (), default: str | None = None) -> None:
        try:
            latest = _latest(root)
        except CardError as error:
            raise RepositoryError(str(error)) from error
        if not latest:
            raise RepositoryError(explain_empty(root.resolve()))
        _require(only, latest, root)
        names = tuple(only or latest)
        _require([default] if default else [], names, root)
        self.root = root
        self._only = frozenset(only)
        self.models: dict[str, Model] = {}
        self.candidates: dict[str, Model] = {}
        self.unreadable: dict[str, str] = {}
        self._unreadable: dict[str, Stamp] = {}
        self._default_is_gone = False
        self._missing: set[str] = set()
        for name in names:
            self._read(name, latest[name], self.models)
        if not self.models:
            raise RepositoryError("no model can be served: " + "; ".join(self.unreadable.values()))
        if default in self.unreadable:
            raise RepositoryError(f"the default model cannot be served: {self.unreadable[default]}")
        self.default = default or min(self.models.values(), key=lambda model: (model.depth, model.name)).name

    def get(self, name: str) -> Model:
        """Raises UnknownModel."""
        model = self.models.get(name) or self.candidates.get(name)
        if model is None:
            raise UnknownModel(wanted=f"the name {name}", available=", ".join(self.models))
        return model

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

    def look(self) -> dict[str, Path | None]:
        """The latest published version of each model, by name. Blocks; may be called from any thread.

        None for a served model whose folder is there and cannot be listed at the moment.

        Raises:
            CardError: the folder cannot be read, or it is empty, as when a volume is not mounted.
        """
        latest: dict[str, Path | None] = {
            name: path for name, path in _latest(self.root).items() if not self._only or name in self._only
        }
        if not latest:
            raise CardError(explain_empty(self.root.resolve()))
        for name in list(self.models):
            if name not in latest and not _is_gone(self.root / name):
                latest[name] = None
        return latest

    def compare(self, latest: Mapping[str, Path | None]) -> Changes:
        """What `look` found against what is known. Reads the cards of new versions and keeps them as candidates.

        A version that has failed is not a candidate again, until `retry` or a change of its card.
        """
        new: list[Model] = []
        for name, path in latest.items():
            if path is None:
                continue
            stamp = Stamp.of(path)
            if name in self.models and self.models[name].stamp == stamp:
                self.candidates.pop(name, None)
                self.unreadable.pop(name, None)
            elif name in self.candidates and self.candidates[name].stamp == stamp:
                self.unreadable.pop(name, None)
            elif self._unreadable.get(name) != stamp and self._read(name, path, self.candidates):
                new.append(self.candidates[name])
        for names in (self.candidates, self.unreadable):
            for name in names.keys() - latest.keys():
                del names[name]
        missing = self.models.keys() - latest.keys()
        # Twice in a row: a folder that is renamed away and back is no removal.
        removed = [self.models[name] for name in sorted(missing & self._missing) if name != self.default]
        self._missing = missing
        if self.default not in latest and not self._default_is_gone:
            log.error(
                "%s has been removed from the model folder; as the default model, it is still served", self.default
            )
        self._default_is_gone = self.default not in latest
        return Changes(new, removed)

    def retry(self) -> None:
        """Makes `compare` take versions for new that have failed."""
        self._unreadable.clear()
        for name in [name for name, model in self.candidates.items() if model.status.state == "failed"]:
            del self.candidates[name]
        for model in self.models.values():
            if model.status.state == "failed":
                model.stamp = model.stamp._replace(card=None)

    def put(self, model: Model) -> Model | None:
        """From now on this version answers requests. Returns the one that did before, if it is another."""
        before = self.models.get(model.name)
        self.models[model.name] = model
        self.candidates.pop(model.name, None)
        return None if before is model else before

    def remove(self, model: Model) -> None:
        """From now on it is unknown."""
        del self.models[model.name]

    def _read(self, name: str, path: Path, into: dict[str, Model]) -> bool:
        """Reads a card; returns whether it could be read."""
        stamp = Stamp.of(path)
        try:
            into[name] = Model(path, read_card(path), stamp)
        except CardError as error:
            log.error("%s is not served: %s", name, error)
            self.unreadable[name] = str(error)
            self._unreadable[name] = stamp
            return False
        self.unreadable.pop(name, None)
        return True

    def _by_depth(self) -> str:
        return ", ".join(f"{model.name} (depth {model.depth})" for model in self.models.values())


def open_repository(settings: Settings) -> Repository:
    """The models that the settings name. Raises RepositoryError."""
    return Repository(settings.models_dir, only=settings.models, default=settings.default_model)


def _latest(root: Path) -> dict[str, Path]:
    """The folder of the highest version of each model. Raises CardError."""
    return {entry.name: entry.path for entry in model_versions(root)}  # ascending


def _is_gone(folder: Path) -> bool:
    """Whether a model's folder is not there, or has no version; not if it only cannot be listed."""
    try:
        return not any(VERSION_PATTERN.fullmatch(path.name) for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _require(names: Sequence[str], there: Collection[str], root: Path) -> None:
    for name in names:
        if name not in there:
            raise RepositoryError(f"{root.resolve()} holds no model {name}: it holds {', '.join(there)}")
