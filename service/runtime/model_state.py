"""What a model folder says beside its versions: which of them is meant by a name, and which numbers are taken.

`models/<name>/model.json` belongs to one model, `models/models.json` to all. Both may be missing.

Requests and commands name a version by a reference: `resnet50`, the version with an alias (`resnet50@canary`), or one
by its number (`resnet50@3`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.runtime.model_folder import CardError

STATE_FILE = "model.json"
FOLDER_FILE = "models.json"

STABLE = "stable"  # see `stable_or_latest`
ALIAS_PATTERN = r"^[a-z][a-z0-9_-]*$"  # a number is a version

Alias = Annotated[str, Field(pattern=ALIAS_PATTERN)]
Version = Annotated[int, Field(ge=1)]


class Unpublished(Exception):
    """A reference that means no published version. The message says what there is."""


def split(reference: str) -> tuple[str, str | None]:
    """The name and the label behind it, which is an alias or a number; None if there is none."""
    name, separator, label = reference.partition("@")
    return name, label if separator else None


def stable_or_latest(numbers: Collection[int], aliases: Mapping[str, int]) -> int:
    """The version that answers to the model's name alone: the stable one, else the latest."""
    stable = aliases.get(STABLE, 0)
    return stable if stable in numbers else max(numbers)


def find_number(reference: str, numbers: Collection[int], aliases: Mapping[str, int]) -> int:
    """The version of a published model that a reference means.

    Args:
        reference: to this model.
        numbers, aliases: of its versions.

    Raises:
        Unpublished: it has no such version or alias.
    """
    name, label = split(reference)
    if label is None:
        return stable_or_latest(numbers, aliases)
    number = int(label) if label.isdecimal() else aliases.get(label)
    if number is None:
        raise Unpublished(f"{name} has no alias {label}: choose from {', '.join([*aliases, *map(str, numbers)])}")
    if number not in numbers:
        raise Unpublished(f"{name} has no version {number}: choose from {', '.join(map(str, numbers))}")
    return number


class _Kept(BaseModel):
    """Fields of later releases are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


class ModelState(_Kept):
    """
    Attributes:
        last_version: the highest number that a version has had; later versions have higher ones, also after a removal.
        aliases: versions by alias. `stable` is the one that clients get.
        replaced: the versions that were `stable` before, the latest last.
    """

    last_version: int = Field(default=0, ge=0)
    aliases: dict[Alias, Version] = {}
    replaced: tuple[Version, ...] = ()


class FolderState(_Kept):
    """
    Attributes:
        default: the name of the model for requests that name none.
    """

    default: str | None = None


Kept = TypeVar("Kept", bound=_Kept)


def read_state(folder: Path) -> ModelState:
    """The state of the model with this folder; that of a new one without a file. Raises CardError."""
    return _read(
        folder / STATE_FILE,
        ModelState(),
        "after which numbers of removed versions may be used again, and its aliases are gone",
    )


def read_folder_state(root: Path) -> FolderState:
    """The state of a model folder; without a file, nothing is set. Raises CardError."""
    return _read(root / FOLDER_FILE, FolderState(), "after which no model is the default")


def _read(path: Path, empty: Kept, loss: str) -> Kept:
    try:
        return type(empty).model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return empty
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CardError(f"{path} is damaged: {where}: {first['msg']}; restore it, or delete it, {loss}") from error
