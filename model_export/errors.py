"""What goes wrong for a reason that its user can mend. Every message names the thing, the fault and the remedy."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(Exception):
    """Something given to the program (weights, labels, images, a recipe) that cannot be used."""


class Unavailable(InputError):
    """A published file that is neither in the cache nor to be had from its address now."""


def some(names: Iterable[str]) -> str:
    """At most five of them, for a message."""
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
