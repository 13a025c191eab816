"""Which versions of a model there are, and which of them clients get: promotion, rollback, removal.

A running service follows what is changed here.
"""

from __future__ import annotations

import re
from pathlib import Path

from model_export.errors import InputError
from service.runtime.disk import remove_folder
from service.runtime.model_card import RESERVED_NAMES
from service.runtime.model_folder import ModelVersion, explain_empty, model_versions, read_card
from service.runtime.model_state import (
    ALIAS_PATTERN,
    STABLE,
    FolderState,
    ModelState,
    Unpublished,
    find_number,
    read_state,
    split,
    stable_or_latest,
)
from service.runtime.state_changes import change_folder_state, change_state

KEPT_REPLACED = 20  # versions that a rollback can go back to


def published(root: Path, name: str) -> list[int]:
    """The numbers of a model's versions, ascending.

    Raises:
        InputError: there is no such model, or the name has a version behind it.
    """
    model, label = split(name)
    if label is not None:
        raise InputError(f"{name} names a version: give the model alone, {model}")
    there = list(model_versions(root))
    numbers = [entry.version for entry in there if entry.name == name]
    if not there:
        raise InputError(explain_empty(root))
    if not numbers:
        names = ", ".join(sorted({entry.name for entry in there}))
        raise InputError(f"there is no model {name} in {root}: choose from {names}")
    return numbers


def latest_numbers(root: Path) -> dict[str, int]:
    """The number of each model's latest version, by name."""
    return {entry.name: entry.version for entry in model_versions(root)}


def find_version(root: Path, reference: str) -> ModelVersion:
    """The version that `NAME`, `NAME@NUMBER` or `NAME@ALIAS` means, as for clients of the service.

    Raises:
        InputError: there is no such model, version or alias.
        CardError: `model.json` cannot be read.
    """
    name, _ = split(reference)
    numbers = published(root, name)
    try:
        number = find_number(reference, numbers, read_state(root / name).aliases)
    except Unpublished as error:
        raise InputError(str(error)) from None
    return ModelVersion(name, number, root / name / str(number))


def replaced_by_next(version: ModelVersion) -> int | None:
    """The number of the version that clients get now, and that the model's next one takes the place of; None if
    another is published for nobody: one is `stable`.

    Raises:
        CardError: `model.json` cannot be read.
    """
    model_root = version.path.parent
    numbers = published(model_root.parent, version.name)
    return None if read_state(model_root).aliases.get(STABLE) in numbers else max(numbers)


def check_brings_nothing_back(version: ModelVersion) -> None:
    """Checks that clients do not get older weights if the model's next version has the weights of this one.

    They would if the name means the latest version, whose weights are others.

    Raises:
        InputError: they would.
        CardError: a card or `model.json` cannot be read.
    """
    name, model_root = version.name, version.path.parent
    latest = replaced_by_next(version)
    if latest is None:
        return
    weights = [read_card(model_root / str(number)).files["fp32"].sha256 for number in (version.version, latest)]
    if weights[0] != weights[1]:
        raise InputError(
            f"{name}@{version.version} has other weights than the latest version, {latest}, which clients get: the "
            f"next version would bring older weights back to them. Run `promote {name}@{latest}` first, so that they "
            "keep it, and try again"
        )


def check_nothing_lost(version: ModelVersion, latest: int) -> None:
    """Checks that the model's next version, made from this one, lacks nothing that was published in the meantime.

    Args:
        latest: the number of the model's latest version before this one was chosen.

    Raises:
        InputError: a later version has the same weights, and with them other files, measurements or a calibration.
        CardError: a card cannot be read.
    """
    name, model_root = version.name, version.path.parent
    weights = read_card(version.path).files["fp32"].sha256
    for number in published(model_root.parent, name):
        if (
            number > max(latest, version.version)
            and read_card(model_root / str(number)).files["fp32"].sha256 == weights
        ):
            raise InputError(
                f"{name}@{number} was published in the meantime, with the same weights: the next version would lack "
                f"what it adds. Run the command again, with {name}@{number}"
            )


def set_default(root: Path, name: str) -> None:
    """Makes a published model the default.

    Raises:
        InputError: there is no such model.
        CardError, OSError: `models.json` cannot be read or written.
    """
    published(root, name)
    change_folder_state(root, lambda state: state.model_copy(update={"default": name}))


def keep_default(root: Path, name: str) -> None:
    """After a publication: the first model of a folder is the default, and a further one does not change that.

    With several models and no default, somebody has to name one.

    Raises:
        CardError, OSError: `models.json` cannot be read or written.
    """

    def change(state: FolderState) -> FolderState:
        others = {entry.name for entry in model_versions(root)} - {name}
        if state.default is not None or len(others) > 1:
            return state
        return state.model_copy(update={"default": others.pop() if others else name})

    change_folder_state(root, change)


def promote(root: Path, name: str, number: int, alias: str = STABLE) -> int | None:
    """Gives a version an alias. Returns the version that had it.

    Raises:
        InputError: there is no such model or version, or the alias is none.
        CardError, OSError: `model.json` cannot be read or written.
    """
    numbers = published(root, name)
    find_version(root, f"{name}@{number}")
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise InputError(f"{alias!r} is no alias: use lower-case letters, digits, '_' and '-', and begin with a letter")
    if alias in RESERVED_NAMES:
        raise InputError(f"no alias can be called {alias}, because paths of the service end in it: choose another name")

    before: list[int | None] = []

    def change(state: ModelState) -> ModelState:
        was = stable_or_latest(numbers, state.aliases) if alias == STABLE else state.aliases.get(alias)
        before.append(was)
        replaced = state.replaced
        if alias == STABLE and was is not None and was != number:
            replaced = (*replaced, was)[-KEPT_REPLACED:]
        return state.model_copy(update={"aliases": {**state.aliases, alias: number}, "replaced": replaced})

    change_state(root / name, change)
    return before[0]


def rollback(root: Path, name: str) -> tuple[int, int]:
    """Makes the version stable that was so before; if none was, the one before the latest.

    Returns:
        The version that clients got so far, and the one that they get now.

    Raises:
        InputError: there is no such model, or no earlier version.
        CardError, OSError: `model.json` cannot be read or written.
    """
    numbers = published(root, name)
    versions: list[tuple[int, int]] = []

    def change(state: ModelState) -> ModelState:
        was = stable_or_latest(numbers, state.aliases)
        replaced = [number for number in state.replaced if number in numbers]
        if not replaced and STABLE not in state.aliases:
            replaced = [number for number in numbers if number < was]
        if not replaced:
            raise InputError(
                f"{name} has no version that was stable before {was}: name one with `promote {name}@NUMBER`"
            )
        now = replaced.pop()
        versions.append((was, now))
        left = tuple(replaced) if now in state.replaced else ()
        return state.model_copy(update={"aliases": {**state.aliases, STABLE: now}, "replaced": left})

    change_state(root / name, change)
    return versions[0]


def remove_alias(root: Path, name: str, alias: str) -> int:
    """Takes an alias away. Returns the version that had it.

    Raises:
        InputError: there is no such model or alias; or it is `stable`, without which clients would get another version.
        CardError, OSError: `model.json` cannot be read or written.
    """
    published(root, name)
    had: list[int] = []

    def change(state: ModelState) -> ModelState:
        if alias not in state.aliases:
            raise InputError(f"{name} has no alias {alias}: choose from {', '.join(state.aliases) or 'its versions'}")
        if alias == STABLE:
            raise InputError(
                f"without {STABLE}, the latest version of {name} would be served: promote that one instead"
            )
        had.append(state.aliases[alias])
        return state.model_copy(
            update={"aliases": {other: number for other, number in state.aliases.items() if other != alias}}
        )

    change_state(root / name, change)
    return had[0]


def remove_version(root: Path, name: str, number: int) -> None:
    """Removes a version that no alias names and that does not answer to the model's name. Its number stays taken.

    Raises:
        InputError: there is no such version, or it is in use.
        CardError, OSError: `model.json` cannot be read or written, or the folder cannot be removed.
    """
    numbers = published(root, name)
    find_version(root, f"{name}@{number}")

    def check_and_remember(state: ModelState) -> ModelState:
        aliases = [alias for alias, other in state.aliases.items() if other == number]
        if aliases:
            raise InputError(f"{name}@{number} is {' and '.join(aliases)}: promote another version first")
        if number == stable_or_latest(numbers, state.aliases):
            raise InputError(f"{name}@{number} is the version that clients get: promote another one first")
        return state.model_copy(update={"last_version": max(state.last_version, *numbers)})

    change_state(root / name, check_and_remember)
    remove_folder(root / name / str(number))


def prune(root: Path, name: str, keep: int) -> list[int]:
    """Removes versions older than the latest `keep`, except those that an alias names or that a rollback goes back to.

    Returns:
        The numbers that were removed.

    Raises:
        as `remove_version`.
    """
    numbers = published(root, name)
    state = read_state(root / name)
    needed = {*numbers[-keep:], *state.aliases.values(), *state.replaced[-1:], stable_or_latest(numbers, state.aliases)}
    old = [number for number in numbers if number not in needed]
    for number in old:
        remove_version(root, name, number)
    return old


def remember_version(model_root: Path, number: int) -> None:
    """Writes down that a number is taken. Raises CardError, OSError."""
    change_state(model_root, lambda state: state.model_copy(update={"last_version": max(state.last_version, number)}))
