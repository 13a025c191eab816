"""The names of the classes, read from `.txt`, `.json`, `.tsv` or `.csv` files."""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from model_export.errors import InputError, some
from service.card import Label

logger = logging.getLogger(__name__)

LABEL_FILES = ("labels.txt", "labels.json", "labels.tsv")

# Under which people keep the names of classes, in files of labels and beside weights; the clearest first.
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

# A dict or list of Python, perhaps assigned to a variable; "[unknown]" is a name.
PYTHON = re.compile(r"\s*(?:\w+\s*=\s*)?(?=\{\s*['\"\d]|\[\s*['\"\[(])")

ENTRY = 'neither a name nor ["wnid", "name"]'


def read_labels(path: Path) -> tuple[Label, ...]:
    """The labels of a file, in the order of the network's logits.

    - `.txt`: one name a line; empty lines at its end do not count. Where every line begins (or ends) with a number and
      the numbers are 0 to n-1 or 1 to n, these are the order. Where every line begins with a WordNet id, it is the
      class's. A dict or list of Python is read as JSON is;
    - `.json`: `["tench", ...]`, `{"0": "tench", ...}`, `{"0": ["n01440764", "tench"], ...}`, torchvision's
      `class_to_idx`, `{"tench": 0, ...}`, or `[{"id": 0, "name": "tench"}, ...]`; any of them also under one of
      `NAME_KEYS`, as in Hugging Face's config.json;
    - `.tsv`, `.csv`: a header with `index`, `name` and perhaps `wnid`, then one class a line (the WordNet id may be
      empty).

    Raises:
        InputError: the file is missing or malformed, or a label is empty, repeated or left out.
    """
    parsers = {".txt": _parse_txt, ".json": _parse_json, ".tsv": _parse_tsv, ".csv": _parse_csv}
    try:
        parse = parsers[path.suffix.lower()]
    except KeyError:
        raise InputError(f"labels cannot be read from {path}: give a .txt, .json, .tsv or .csv file") from None
    try:
        labels = _with_wordnet_ids(parse(_text(path.read_bytes())))
        _check(labels)
    except FileNotFoundError:
        raise InputError(f"the labels file {path} does not exist") from None
    except OSError as error:
        raise InputError(f"the labels file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"the labels file {path} is not UTF-8 text: save it as UTF-8") from None
    except (RecursionError, MemoryError):
        raise InputError(
            f"the labels file {path} cannot be used: it is nested too deeply for a list of names"
        ) from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"the labels file {path} cannot be used: {error}") from error
    return labels


def imagenet_labels() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet-1k, in the order of the published weights."""
    text = resources.files("model_export").joinpath("data", "imagenet1k_classes.tsv").read_text(encoding="utf-8")
    return _parse_tsv(text)


def labels_of(content: object) -> tuple[Label, ...] | None:
    """The labels that a Python object holds, in any of the forms of a `.json` file; None where it holds none."""
    try:
        labels = _with_wordnet_ids(_labels(_as_pairs(content)))
        _check(labels)
    except (ValueError, RecursionError):
        return None
    return labels


def _text(raw: bytes) -> str:
    # Windows writes UTF-16 with its mark
    text = raw.decode("utf-16" if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL characters, as UTF-16 text and binary files do: save it as UTF-8 text")
    return text


def _lines(text: str) -> list[str]:
    """Without the empty ones at the end."""
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _parse_txt(text: str) -> tuple[Label, ...]:
    if literal := PYTHON.match(text):
        return _labels(_python(text[literal.end() :]))
    lines = _in_order([line.strip() for line in _lines(text)])
    with_ids = [WORDNET_FIRST.fullmatch(line) for line in lines]
    if all(with_ids):
        return tuple(Label(name=one["name"], wnid=one["wnid"]) for one in with_ids if one)
    return tuple(Label(name=line) for line in lines)


def _python(text: str) -> object:
    """The content of a dict or list of Python, as JSON's parser gives it. Nothing is executed."""
    try:
        return _literal(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(
            f"it begins as a dict or list of Python but is none: {error.msg}, line {error.lineno}"
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
    raise ValueError(f"the {type(node).__name__} on line {node.lineno} is no plain value")


def _in_order(lines: list[str]) -> list[str]:
    """The names without their numbers, in the order of these, where all lines have one."""
    first = _numbered(NUMBER_FIRST, lines)
    if first is not None and (ordered := _by_number(first)) is not None:
        return ordered
    if first is not None:
        raise ValueError(
            f"every line begins with a number ({some(str(number) for number, _ in first)}), but the numbers are "
            "neither 0 to n-1 nor 1 to n, each once: mend them, or give the names as a .json list if they are part of "
            "the names"
        )
    last = _numbered(NUMBER_LAST, lines)
    # "Stage 1", "Boeing 747": unless they are indices, they are part of the names
    return (last and min(last)[0] == 0 and _by_number(last)) or lines


def _numbered(pattern: re.Pattern[str], lines: Sequence[str]) -> list[tuple[int, str]] | None:
    """Number and name of each line; None where not all have one, or where it is part of the name: 1 euro, 2 euro."""
    matches = [found for line in lines if (found := pattern.fullmatch(line))]
    pairs = [(int(found["number"]), found["name"]) for found in matches]
    if len(lines) < 2 or len(pairs) < len(lines) or 2 * len({name for _, name in pairs}) <= len(pairs):
        return None
    return pairs


def _by_number(pairs: Iterable[tuple[int, str]]) -> list[str] | None:
    """Names in the order of their numbers; None where these run neither from 0 nor from 1."""
    ordered = sorted(pairs)
    start = ordered[0][0]
    if start > 1 or [number for number, _ in ordered] != list(range(start, start + len(ordered))):
        return None
    if start == 1:
        logger.info("the labels are numbered from 1: number 1 is class 0")
    return [name for _, name in ordered]


def _parse_json(text: str) -> tuple[Label, ...]:
    # Objects become tuples of pairs, so that a repeated key is seen instead of overwriting the earlier one.
    return _labels(json.loads(text, object_pairs_hook=tuple))


def _as_pairs(content: object) -> object:
    """Dicts as tuples of pairs, as the parsers give them."""
    if isinstance(content, Mapping):
        return tuple((str(key), _as_pairs(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return [_as_pairs(entry) for entry in content]
    return int(content) if isinstance(content, np.integer) else content


def _labels(content: object) -> tuple[Label, ...]:
    """Of what the parsers give: a list, or an object as a tuple of pairs.

    Raises:
        ValueError: it holds no names of classes, or not clearly.
    """
    if isinstance(content, list):
        if content and all(isinstance(entry, tuple) for entry in content):
            return _numbered_objects(content)
        return tuple(_json_label(entry) for entry in content)
    if not isinstance(content, tuple):
        raise ValueError("it holds neither a list of names nor an object from index to name")
    if not content:
        return ()
    keys = [key for key, _ in content]
    if all(type(index) is int for _, index in content):
        return _by_index((str(index), _json_label(name)) for name, index in content)
    if any(key.isdecimal() for key in keys):
        return _by_index((key, _json_label(entry)) for key, entry in content)
    if any(key in NAME_KEYS for key in keys):
        return _under_a_key(dict(content))
    raise ValueError(
        f"it is an object with the keys {some(keys)}: give a list of names, an object from index to name or from name "
        f"to index, or one of these under {', '.join(NAME_KEYS[:-1])} or {NAME_KEYS[-1]}"
    )


def _under_a_key(content: Mapping[str, object]) -> tuple[Label, ...]:
    """The names under the clearest of the keys; what else stands there must not contradict them."""
    first, *others = [key for key in NAME_KEYS if key in content]
    try:
        labels = _labels(content[first])
    except ValueError as error:
        raise ValueError(f"{first}: {error}") from error
    for other in others:
        try:
            rival = _labels(content[other])
        except ValueError:  # something else under a name of many meanings
            continue
        if [label.name for label in rival] != [label.name for label in labels]:
            raise ValueError(f"its {first} and {other} name different classes: leave the wrong one out")
    return labels


def _numbered_objects(entries: Sequence[tuple[tuple[str, object], ...]]) -> tuple[Label, ...]:
    """`[{"id": 0, "name": "cat"}, ...]`, as in COCO's categories, whose ids may count from 1."""
    pairs = []
    for entry in map(dict, entries):
        index, name = entry.get("id", entry.get("index")), entry.get("name")
        if type(index) is not int or not isinstance(name, str):
            raise ValueError(f"its objects need an id and a name, and one has {some(entry)}")
        pairs.append((index, name.strip()))
    ordered = _by_number(pairs)
    if ordered is None:
        raise ValueError("its ids are neither 0 to n-1 nor 1 to n, each once: give the names as a list")
    return tuple(Label(name=name) for name in ordered)


def _json_label(entry: object) -> Label:
    match entry:
        case str(name):
            return Label(name=name.strip())
        case [str(wnid), str(name)]:
            return Label(name=name.strip(), wnid=wnid)
        case tuple():
            raise ValueError(f"an object with the keys {some(key for key, _ in entry)} is {ENTRY}")
    raise ValueError(f"{json.dumps(entry, default=str)[:80]} is {ENTRY}")


def _parse_tsv(text: str) -> tuple[Label, ...]:
    return _parse_table(text, delimiter="\t", quoting=csv.QUOTE_NONE)


def _parse_csv(text: str) -> tuple[Label, ...]:
    return _parse_table(text, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _parse_table(text: str, *, delimiter: str, quoting: Literal[0, 3]) -> tuple[Label, ...]:
    rows = csv.reader(_lines(text), delimiter=delimiter, quoting=quoting)
    header = [column.strip().lower() for column in next(rows, [])]
    if not header:
        return ()
    if sorted(header) not in (["index", "name"], ["index", "name", "wnid"]):
        raise ValueError(f"its header is {' '.join(header)!r}, not the columns index, name and perhaps wnid")
    pairs = []
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"line {rows.line_num} has {len(row)} columns instead of {len(header)}")
        cells = {column: cell.strip() for column, cell in zip(header, row, strict=True)}
        pairs.append((cells["index"], Label(name=cells["name"], wnid=cells.get("wnid") or None)))
    return _by_index(pairs)


def _with_wordnet_ids(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """A list of ImageNet's classes gets their WordNet ids, without which its two cranes could not be told apart."""
    if len(labels) != 1000 or any(label.wnid for label in labels):
        return labels
    known = imagenet_labels()
    same = sum(label.name.partition(",")[0] == own.name for label, own in zip(labels, known, strict=True))
    if same < 900:
        return labels
    return tuple(Label(name=label.name, wnid=own.wnid) for label, own in zip(labels, known, strict=True))


def _by_index(pairs: Iterable[tuple[str, Label]]) -> tuple[Label, ...]:
    """Labels ordered by their index, which must run from 0 without gaps."""
    labels: dict[int, Label] = {}
    for key, label in pairs:
        if not key.isdecimal():
            raise ValueError(f"the index {key!r} is not a number")
        if int(key) in labels:
            raise ValueError(f"the index {int(key)} occurs twice")
        labels[int(key)] = label
    for index in range(len(labels)):
        if index not in labels:
            raise ValueError(f"the index {index} is missing (indices run from 0 without gaps)")
    return tuple(labels[index] for index in range(len(labels)))


def _check(labels: tuple[Label, ...]) -> None:
    if not labels:
        raise ValueError("it is empty")
    for index, label in enumerate(labels):
        if not label.name:
            raise ValueError(f"the label of class {index} is empty")
    # Two classes may share a name (ImageNet's two cranes), but then their WordNet ids must tell them apart.
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        places = ", ".join(str(index) for index, other in enumerate(labels) if other == label)
        raise ValueError(f"{label.name!r} names classes {places}: make the names differ or add WordNet ids")
