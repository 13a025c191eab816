"""What a source has: models, versions, aliases, the default, and which of them are asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from service.fetch.source import FetchError, Source
from service.fetch.transfer import retried
from service.references import Published, candidates, require
from service.runtime.model_card import FILE_PATTERN, NAME_PATTERN, RESERVED_NAMES
from service.runtime.model_folder import CARD_FILE, VERSION_PATTERN
from service.runtime.model_state import FOLDER_FILE, STATE_FILE, FolderState, Kept, ModelState, Unpublished

log = logging.getLogger(__name__)

MOST_JSON_BYTES = 64 * 2**20  # of a card or a state

NAME, FILE = NAME_PATTERN.strip("^$"), FILE_PATTERN.strip("^$")
PATH = re.compile(rf"(?P<name>{NAME})/(?P<version>{VERSION_PATTERN.pattern})/(?P<file>{FILE})")  # of a version's file


class Wanted(NamedTuple):
    """A version to fetch. `files`: bytes of each of its files in the source."""

    name: str
    number: int
    files: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Tree:
    """The model folder of a source."""

    def __init__(self, source: Source) -> None:
        """Raises FetchError, Interrupted."""
        self.source = source
        self._sizes = source.sizes()
        found: dict[str, dict[int, dict[str, int]]] = {}
        for path, size in self._sizes.items():
            if parts := PATH.fullmatch(path):
                found.setdefault(parts["name"], {}).setdefault(int(parts["version"]), {})[parts["file"]] = size
        if not found:
            raise FetchError(
                f"{source.name} holds no models: it should have files like resnet50/1/{CARD_FILE}; give the address of "
                "the folder that `python -m model_export` fills"
            )
        self._versions = found
        self.states = {name: self._state_of(name) for name in found}
        self.default = self._state(FOLDER_FILE, FolderState()).default

    def select(self, references: Sequence[str]) -> list[Wanted]:
        """The versions that a service with these `models` serves: of each model the stable or the latest one, and those
        with an alias.

        Args:
            references: `resnet50`, `resnet50@3`, `resnet50@canary`; none for all models.

        Raises:
            FetchError: one of them means nothing here.
        """
        published = {
            name: Published({number: (name, number) for number in sorted(numbers)}, self.states[name].aliases)
            for name, numbers in sorted(self._versions.items())
        }
        try:
            require(published, references)
        except Unpublished as error:
            raise FetchError(f"{self.source.name}: {error}") from None
        found = {
            version for versions in candidates(published, references, fall_back=False).values() for version in versions
        }
        return [Wanted(name, number, self._versions[name][number]) for name, number in sorted(found)]

    def read(self, path: str) -> bytes:
        """A small file. Raises FetchError, Interrupted."""
        size = self._sizes[path]
        if size > MOST_JSON_BYTES:
            raise FetchError(f"{self.source.name}: {path} has {size} bytes, which is too much: publish the model again")
        return retried(lambda: b"".join(self.source.read(path, 0)) if size else b"", path)

    def _state_of(self, name: str) -> ModelState:
        """The state of a model, without aliases that `promote` refuses."""
        state = self._state(f"{name}/{STATE_FILE}", ModelState())
        usable = {alias: number for alias, number in state.aliases.items() if alias not in RESERVED_NAMES}
        for alias in state.aliases.keys() - usable.keys():
            log.warning(
                "the alias %s@%s is left out, because paths of the service end in it: promote that version under "
                "another name",
                name,
                alias,
            )
        return state.model_copy(update={"aliases": usable})

    def _state(self, path: str, empty: Kept) -> Kept:
        if path not in self._sizes:
            return empty
        try:
            return type(empty).model_validate_json(self.read(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise FetchError(f"{self.source.name}: {path} is damaged: {first['msg']}; upload it again") from None
