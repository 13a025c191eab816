"""File and class names in messages: no raw control characters, and invisible differences made visible."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from model_export.errors import shortlist

# Line breaks, colours and changes of writing direction: what a terminal acts on.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Blanks, joiners, direction marks, fillers and variation selectors: characters without ink.
INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0]"
)


def printable(name: str | Path) -> str:
    """A name with escapes for bytes that are not UTF-8 and for characters that a terminal would act on."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return CONTROLS.sub(lambda control: control[0].encode("unicode_escape").decode(), text)


def exact(name: str) -> str:
    """A name; in quotes and escaped where it has invisible characters or unusual blanks."""
    plain = name.isprintable() and name == " ".join(name.split())
    return name if plain else repr(name)


def base_names(paths: Iterable[Path]) -> str:
    """The printable names of at most five files or folders, without their parents."""
    return shortlist(printable(path.name) for path in paths)


def differ_in_case(names: Iterable[str]) -> list[str]:
    """The names that equal another one except for upper and lower case."""
    by_folded: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folded[name.casefold()].append(name)
    return [name for alike in by_folded.values() if len(alike) > 1 for name in alike]
