"""Parsers of class names: text lines, Python literals, JSON, and tables. They raise ValueError without a file name."""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from model_export.errors import shortlist
from service.runtime.model_card import Label

log = logging.getLogger(__name__)

# Keys under which label files and weight files hold class names, the least ambiguous first.
NAME_KEYS = (
    "id2label",
    "idx_to_class",
    "idx2label",
    "class_to_idx",
    "label2id",
    "classes",
    "class_names",
    "categories",
    "names",
    "labels",
)

# Between a number and a name. A colon or comma before a digit belongs to a number: "1,000 m", "10:30".
SEPARATOR = r"(?:[;=|\t)]\s*|[:,](?:\s+|(?!\d))|\.?\s+(?:-\s+)?)"
NUMBER_FIRST = re.compile(rf"(?P<number>\d{{1,9}})\s*{SEPARATOR}(?P<name>\S.*)")
NUMBER_LAST = re.compile(r"(?P<name>.*\S)(?:\s+|\s*[:,;=|]\s*)(?P<number>\d{1,9})")
WORDNET_FIRST = re.compile(r"(?P<wnid>n\d{8})[\s:,;|]\s*(?P<name>\S.*)")

# The start of a Python dict or list, perhaps assigned to a variable; "[unknown]" is a name.
PYTHON = re.compile(r"\s*(?:\w+\s*=\s*)?(?=\{\s*['\"\d]|\[\s*['\"\[(])")

ENTRY = 'neither a name nor ["wnid", "name"]'


def parse_txt(text: str) -> tuple[Label, ...]:
    if start := PYTHON.match(text):
        return _labels(_python_literal(text[start.end() :]))
    lines = _in_order([line.strip() for line in _lines(text)])
    with_ids = [WORDNET_FIRST.fullmatch(line) for line in lines]
    if all(with_ids):
        return tuple(Label(name=match["name"], wnid=match["wnid"]) for match in with_ids if match)
    return tuple(Label(name=line) for line in lines)


def parse_json(text: str) -> tuple[Label, ...]:
    # Objects become tuples of pairs: a repeated key shows up instead of overwriting the earlier one.
    return _labels(json.loads(text, object_pairs_hook=tuple))


def parse_tsv(text: str) -> tuple[Label, ...]:
    return _parse_table(text, delimiter="\t", quoting=csv.QUOTE_NONE)


def parse_csv(text: str) -> tuple[Label, ...]:
    return _parse_table(text, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def parse_object(content: object) -> tuple[Label, ...]:
    """The labels in a Python object of any form that `parse_json` reads."""
    return _labels(_as_pairs(content))


def _lines(text: str) -> list[str]:
    """Lines without the empty ones at the end."""
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _python_literal(text: str) -> object:
    """A Python dict or list, its dicts as tuples of pairs. Nothing is executed."""
    try:
        return _literal(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(
            f"it begins like a Python dict or list but is not one ({error.msg}, line {error.lineno}): correct it, or "
            "write one name a line"
        ) from error


def _literal(node: ast.expr) -> object:
    match node:
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return tuple((str(_literal(key)) if key else "**", _literal(value)) for key, value in pairs)
        case ast.List(elts=entries) | ast.Tuple(elts=entries):
            return [_literal(entry) for entry in entries]
        case ast.Constant(value=value):
            return value
    raise ValueError(f"the {type(node).__name__} on line {node.lineno} is not a literal: write only names and numbers")


def _in_order(lines: list[str]) -> list[str]:
    """The names without their numbers, ordered by them, if all lines are numbered; otherwise the lines."""
    first = _numbered(NUMBER_FIRST, lines)
    if first is not None and (ordered := _by_number(first)) is not None:
        return ordered
    if first is not None:
        raise ValueError(
            f"every line begins with a number ({shortlist(str(number) for number, _ in first)}), but the numbers are "
            "neither 0 to n-1 nor 1 to n, each once: correct them or, if they belong to the names, list the names in a "
            ".json file"
        )
    last = _numbered(NUMBER_LAST, lines)
    # Numbers at the end that are not indices belong to the names: "Stage 1", "Boeing 747".
    return (last and min(last)[0] == 0 and _by_number(last)) or lines


def _numbered(pattern: re.Pattern[str], lines: Sequence[str]) -> list[tuple[int, str]] | None:
    """Number and name of each line; None if a line has no number, or if it belongs to the name (1 euro, 2 euro)."""
    matches = [match for line in lines if (match := pattern.fullmatch(line))]
    pairs = [(int(match["number"]), match["name"]) for match in matches]
    if len(lines) < 2 or len(pairs) < len(lines) or 2 * len({name for _, name in pairs}) <= len(pairs):
        return None
    return pairs


def _by_number(pairs: Iterable[tuple[int, str]]) -> list[str] | None:
    """Names in the order of their numbers; None if these are neither 0 to n-1 nor 1 to n."""
    ordered = sorted(pairs)
    start = ordered[0][0]
    if start > 1 or [number for number, _ in ordered] != list(range(start, start + len(ordered))):
        return None
    if start == 1:
        log.info("the labels are numbered from 1: number 1 is class 0")
    return [name for _, name in ordered]


def _as_pairs(content: object) -> object:
    """The content with dicts as tuples of pairs, as the parsers return them."""
    if isinstance(content, Mapping):
        return tuple((str(key), _as_pairs(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return [_as_pairs(entry) for entry in content]
    return int(content) if isinstance(content, np.integer) else content


def _labels(content: object) -> tuple[Label, ...]:
    """The labels in what a parser returned: a list, or an object as a tuple of pairs.

    Raises:
        ValueError: it holds no class names, or ambiguous ones.
    """
    if isinstance(content, list):
        if content and all(isinstance(entry, tuple) for entry in content):
            return _numbered_objects(content)
        return tuple(_label(entry) for entry in content)
    if not isinstance(content, tuple):
        raise ValueError("it holds neither a list of names nor an object from index to name: write one of them")
    if not content:
        return ()
    keys = [key for key, _ in content]
    if all(type(index) is int for _, index in content):
        return _by_index((str(index), _label(name)) for name, index in content)
    if any(key.isdecimal() for key in keys):
        return _by_index((key, _label(entry)) for key, entry in content)
    if any(key in NAME_KEYS for key in keys):
        return _under_a_key(dict(content))
    raise ValueError(
        f"it is an object with the keys {shortlist(keys)}: write a list of names, an object from index to name or from "
        f"name to index, or one of these under {', '.join(NAME_KEYS[:-1])} or {NAME_KEYS[-1]}"
    )


def _under_a_key(content: Mapping[str, object]) -> tuple[Label, ...]:
    """The names under the least ambiguous key; names under other keys must not contradict them."""
    first, *others = [key for key in NAME_KEYS if key in content]
    try:
        labels = _labels(content[first])
    except ValueError as error:
        raise ValueError(f"{first}: {error}") from error
    for other in others:
        try:
            rival = _labels(content[other])
        except ValueError:  # the key may mean something else
            continue
        if [label.name for label in rival] != [label.name for label in labels]:
            raise ValueError(f"its {first} and {other} name different classes: remove the wrong one")
    return labels


def _numbered_objects(entries: Sequence[tuple[tuple[str, object], ...]]) -> tuple[Label, ...]:
    """`[{"id": 0, "name": "cat"}, ...]`, as in COCO's categories, whose ids may count from 1."""
    pairs = []
    for entry in map(dict, entries):
        index, name = entry.get("id", entry.get("index")), entry.get("name")
        if type(index) is not int or not isinstance(name, str):
            raise ValueError(f"every object needs an id and a name, but one has {shortlist(entry)}: complete it")
        pairs.append((index, name.strip()))
    ordered = _by_number(pairs)
    if ordered is None:
        raise ValueError("its ids are neither 0 to n-1 nor 1 to n, each once: write a list of names instead")
    return tuple(Label(name=name) for name in ordered)


def _label(entry: object) -> Label:
    match entry:
        case str(name):
            return Label(name=name.strip())
        case [str(wnid), str(name)]:
            return Label(name=name.strip(), wnid=wnid)
        case tuple():
            raise ValueError(f"an object with the keys {shortlist(key for key, _ in entry)} is {ENTRY}")
    raise ValueError(f"{json.dumps(entry, default=str)[:80]} is {ENTRY}")


def _parse_table(text: str, *, delimiter: str, quoting: Literal[0, 3]) -> tuple[Label, ...]:
    rows = csv.reader(_lines(text), delimiter=delimiter, quoting=quoting)
    header = [column.strip().lower() for column in next(rows, [])]
    if not header:
        return ()
    if sorted(header) not in (["index", "name"], ["index", "name", "wnid"]):
        raise ValueError(
            f"its header is {' '.join(header)!r}: write a header with the columns index, name and optionally wnid"
        )
    pairs = []
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"line {rows.line_num} has {len(row)} columns instead of {len(header)}: give it as many as the header"
            )
        cells = {column: cell.strip() for column, cell in zip(header, row, strict=True)}
        pairs.append((cells["index"], Label(name=cells["name"], wnid=cells.get("wnid") or None)))
    return _by_index(pairs)


def _by_index(pairs: Iterable[tuple[str, Label]]) -> tuple[Label, ...]:
    """Labels ordered by their index, which must run from 0 without gaps."""
    labels: dict[int, Label] = {}
    for key, label in pairs:
        if not key.isdecimal():
            raise ValueError(f"the index {key!r} is not a number: number the classes from 0")
        if int(key) in labels:
            raise ValueError(f"the index {int(key)} occurs twice: give every class its own")
        labels[int(key)] = label
    for index in range(len(labels)):
        if index not in labels:
            raise ValueError(f"the index {index} is missing: number the classes from 0 without gaps")
    return tuple(labels[index] for index in range(len(labels)))
