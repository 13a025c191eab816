"""Errors that a user can fix. Every message names the thing, the fault and the remedy."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(Exception):
    """An input (weights, labels, images, a recipe) that cannot be used."""


class Unavailable(InputError):
    """A published file that is not in the cache and cannot be downloaded now."""


class CheckFailed(Exception):
    """A model file that fails the checks before publication; nothing is published."""


def shortlist(names: Iterable[str]) -> str:
    """At most five names, for a message: "a, b, c, d, e, ..."."""
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
