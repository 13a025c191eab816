"""The parameters of calls with images, from the query or the fields of the form."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from service.errors import InvalidParameter, UnknownParameter
from service.model_repository import Model, Repository
from service.predictions import DEFAULT_TOP_K

C = TypeVar("C", bound=str)

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
LARGEST = 999_999_999  # number
CLASSES_NAMED = 5  # of a model, in an error

# Without a value, not with the value null: the document must not offer the word `null`.
Absent = SkipJsonSchema[None]
Whole = Annotated[int, Field(ge=1, le=LARGEST)]


class Choice(BaseModel):
    """Which model a request asks for."""

    model: str | Absent = Field(default=None, description="By name, as /models lists them.")
    depth: Whole | Absent = Field(default=None, description="By depth, as /models lists them.")


class Parameters(Choice):
    """What a request asks for."""

    top_k: Whole | Absent = Field(
        default=None,
        description="How many classes to return, most probable first, at most all of the model; 5 if not given.",
    )
    labels: str | Absent = Field(
        default=None,
        description="The only classes that come into question: their names or class ids, separated by commas. "
        "Probabilities of softmax then add up to 1 over these.",
    )


Timeout = Annotated[
    Whole | Absent,
    Field(
        description="Milliseconds that the request may take. If they cannot be kept or have passed, the answer is 504.",
    ),
]
SCHEMAS = Parameters.model_json_schema()["properties"]  # by name
KNOWN = tuple(Parameters.model_fields)
NEAR = 0.7  # least similarity (of 1) of a known name that is suggested for an unknown one
WHOLE = re.compile(r"\s*0*([0-9]{1,9})\s*")


def read_parameters(given: Sequence[tuple[str, str]], known: Sequence[str] = KNOWN) -> dict[str, str]:
    """The parameters of the query and the form. An empty one counts as missing: browsers send empty fields.

    Args:
        known: those that the operation has.

    Raises:
        InvalidParameter: one is given twice with different values.
        UnknownParameter
    """
    values: dict[str, str] = {}
    for name, value in given:
        if name not in known:
            nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=NEAR)
            suggestion = {"nearest": nearest[0]} if nearest else {}
            raise UnknownParameter(parameter=name, known=", ".join(known), **suggestion)
        if value and values.setdefault(name, value) != value:
            raise InvalidParameter(parameter=name, value=value, reason=f"it is also given as '{values[name]}'.")
    return values


def depth_of(values: Mapping[str, str], repository: Repository) -> int | None:
    """The depth that the request asks for. Raises InvalidParameter if it is not a number."""
    value = values.get("depth")
    if value is None:
        return None
    depth = whole_number(value)
    if depth is None:
        served = ", ".join(str(depth) for depth in sorted({model.depth for model in repository.models}))
        raise InvalidParameter(parameter="depth", value=value, reason=f"give one of the numbers {served}.")
    return depth


def choice_of(values: Mapping[str, str], parameter: str, choices: Sequence[C]) -> C:
    """One of a few values; the first without the parameter. Raises InvalidParameter."""
    value = values.get(parameter, choices[0])
    for choice in choices:
        if value == choice:
            return choice
    raise InvalidParameter(parameter=parameter, value=value, reason=f"give one of {', '.join(choices)}.")


def classes_of(values: Mapping[str, str], model: Model, parameter: str = "labels") -> tuple[int, ...] | None:
    """The ids of the classes that the request names, ascending; None if it names none.

    Raises:
        InvalidParameter: the model does not have one of them, or several have that name.
    """
    value = values.get(parameter)
    if value is None:
        return None
    names = [label.name for label in model.card.labels]
    ids_of: dict[str, list[int]] = {}  # an address has room for thousands of names: none of them is searched for
    for class_id, name in enumerate(names):
        ids_of.setdefault(name, []).append(class_id)
    found: set[int] = set()
    unknown: list[str] = []
    for given in filter(None, (part.strip() for part in value.split(","))):
        ids = ids_of.get(unicodedata.normalize("NFC", given), [])
        if len(ids) > 1:
            reason = f"{model.name} has several classes '{given}': give one by its id ({', '.join(map(str, ids))})."
            raise InvalidParameter(parameter=parameter, value=value, reason=reason)
        if not ids and (number := whole_number(given)) is not None and number < len(names):
            ids = [number]
        if not ids:
            unknown.append(given)
        found.update(ids)
    if unknown or not found:
        which = " or ".join([*map(repr, unknown[:CLASSES_NAMED]), *["others"] * (len(unknown) > CLASSES_NAMED)])
        missing = f"{model.name} has no class {which}: " if unknown else ""
        some = ", ".join(names[:CLASSES_NAMED]) + (" and others" if len(names) > CLASSES_NAMED else "")
        reason = f"{missing}give names or ids of classes as /models/{model.name}/labels lists them, such as {some}."
        raise InvalidParameter(parameter=parameter, value=value, reason=reason)
    return tuple(sorted(found))


def top_k_of(values: Mapping[str, str], model: Model, only: Sequence[int] | None, default: int = DEFAULT_TOP_K) -> int:
    """How many classes the request asks for. Raises InvalidParameter if the model does not have that many.

    Args:
        only: the classes that the request names; None for all.
        default: without the parameter, or as many as there are.
    """
    classes = model.card.architecture.num_classes if only is None else len(only)
    value = values.get("top_k")
    if value is None:
        return min(default, classes)
    k = whole_number(value)
    if k is None or not 1 <= k <= classes:
        which = f"the classes of {model.name}" if only is None else "the classes that the request names"
        reason = f"give a whole number from 1 to {classes} ({which})."
        raise InvalidParameter(parameter="top_k", value=value, reason=reason)
    return k


def seconds_of(header: str | None) -> float:
    """The time that the client gives its request, from X-Request-Timeout-Ms; infinite without the header.

    Raises:
        InvalidParameter: it is not a whole number of milliseconds from 1.
    """
    if header is None:
        return math.inf
    milliseconds = whole_number(header)
    if not milliseconds:
        raise InvalidParameter(
            parameter=TIMEOUT_HEADER, value=header, reason="give a whole number of milliseconds, at least 1."
        )
    return milliseconds / 1000


def whole_number(text: str) -> int | None:
    found = WHOLE.fullmatch(text)
    return int(found[1]) if found else None
