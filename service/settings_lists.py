"""Lists in settings and options, as users write them."""

from __future__ import annotations

import re


def split_list(text: str) -> tuple[str, ...]:
    """The parts between commas, spaces and line breaks; none is empty."""
    return tuple(filter(None, re.split(r"[,\s]+", text)))
