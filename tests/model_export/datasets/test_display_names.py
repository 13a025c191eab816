"""Names in messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_export.datasets.display_names import base_names, differ_in_case, exact, printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("ice cream", "ice cream"),
        ("caf\u00e9", "caf\u00e9"),
        ("cat ", "'cat '"),
        ("a  b", "'a  b'"),
        ("cat\u200b", "'cat\\u200b'"),
        ("a\u00a0b", "'a\\xa0b'"),
    ],
)
def test_invisible_characters_are_escaped(name: str, expected: str) -> None:
    assert exact(name) == expected


def test_printable_names() -> None:
    assert printable("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert (
        printable("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_names_that_differ_in_case() -> None:
    assert differ_in_case(("Cat", "cat", "dog")) == ["Cat", "cat"]
    assert differ_in_case(("cat", "dog")) == []


def test_at_most_five_base_names() -> None:
    assert base_names([Path("/a/b\n"), Path("c")]) == "b\\n, c"
    assert base_names(Path("x", str(i)) for i in range(6)) == "0, 1, 2, 3, 4, ..."
