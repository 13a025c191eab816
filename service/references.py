"""Which published version answers to which reference. Knows neither files nor engines."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from service.runtime.model_state import STABLE, Unpublished, find_number, split

State = Literal["loading", "ready", "failed"]

Version = TypeVar("Version", bound=Hashable)


class Published(NamedTuple, Generic[Version]):
    """One model as it is published: its versions by number, and the numbers that its aliases name."""

    versions: Mapping[int, Version]
    aliases: Mapping[str, int]


def require(published: Mapping[str, Published[Version]], named: Sequence[str]) -> None:
    """Raises Unpublished if one of these references means nothing."""
    for reference in named:
        name, _ = split(reference)
        if name not in published:
            raise Unpublished(f"there is no model {name}: choose from {', '.join(published)}")
        find_number(reference, published[name].versions, published[name].aliases)


def candidates(
    published: Mapping[str, Published[Version]], named: Sequence[str] = (), *, fall_back: bool = True
) -> dict[str, tuple[Version, ...]]:
    """The versions that may answer to each reference, the wanted one first. What is not published is left out.

    A version that cannot be served is replaced by the next older one where the reference leaves the choice: without a
    label and as `stable`. Another alias, and a number, mean one version only.

    Args:
        published: by name.
        named: the references that the settings name; all models with all their aliases if there are none. The first
            with a label answers to the name alone, too.
        fall_back: whether older versions may take the place of one that cannot be served.
    """
    found: dict[str, tuple[Version, ...]] = {}
    for reference in named or published:
        name, label = split(reference)
        if name not in published:
            continue
        model = published[name]
        try:
            number = find_number(reference, model.versions, model.aliases)
        except Unpublished:
            continue
        found[reference] = _from(model, number, fall_back=fall_back and label in (None, STABLE))
        if label is not None:
            found.setdefault(name, found[reference])
            continue
        for alias, number in model.aliases.items():
            if number in model.versions:
                found[f"{name}@{alias}"] = _from(model, number, fall_back=fall_back and alias == STABLE)
    return found


def _from(model: Published[Version], number: int, *, fall_back: bool) -> tuple[Version, ...]:
    numbers = sorted((other for other in model.versions if other < number), reverse=True) if fall_back else []
    return tuple(model.versions[each] for each in (number, *numbers))


def goals(wanted: Mapping[str, Sequence[Version]], states: Mapping[Version, State]) -> dict[str, Version]:
    """The version to reach for each reference: the first candidate that has not failed.

    Args:
        wanted: the candidates for each reference, as `candidates` returns them.
        states: of all versions that are known.
    """
    found: dict[str, Version] = {}
    for reference, versions in wanted.items():
        goal = next((version for version in versions if states.get(version) != "failed"), None)
        if goal is not None:
            found[reference] = goal
    return found


class Settled(NamedTuple, Generic[Version]):
    """What follows from the states of the versions.

    Attributes:
        answering: the version for each reference that has one.
        idle: ready versions that nobody needs any more.
    """

    answering: dict[str, Version]
    idle: list[Version]


def settle(
    wanted: Mapping[str, Sequence[Version]], states: Mapping[Version, State], before: Mapping[str, Version]
) -> Settled[Version]:
    """Decides which version answers to which reference.

    That is its goal. Until it is ready, the version that answered before goes on, or else the first candidate that is
    ready.

    Args:
        wanted, states: as of `goals`.
        before: the version that has answered so far, by reference.
    """
    reached = goals(wanted, states)
    answering: dict[str, Version] = {}
    for reference, versions in wanted.items():
        order = [*(by[reference] for by in (reached, before) if reference in by), *versions]
        ready = next((version for version in order if states.get(version) == "ready"), None)
        if ready is not None:
            answering[reference] = ready
    needed = {*answering.values(), *reached.values()}
    return Settled(
        answering, idle=[version for version, state in states.items() if state == "ready" and version not in needed]
    )
