"""The names of the classes, read from `.txt`, `.json` or `.tsv` files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from model_export.errors import InputError
from service.card import Label

LABEL_FILES = ("labels.txt", "labels.json", "labels.tsv")


def read_labels(path: Path) -> tuple[Label, ...]:
    """The labels of a file, in the order of the network's logits.

    - `.txt`: one name a line; empty lines at its end do not count;
    - `.json`: `["tench", ...]`, `{"0": "tench", ...}`, `{"0": ["n01440764", "tench"], ...}`, or torchvision's
      `class_to_idx`, `{"tench": 0, ...}`;
    - `.tsv`: a header `index wnid name`, then one class a line (the WordNet id may be empty).

    Raises:
        InputError: the file is missing or malformed, or a label is empty, repeated or left out.
    """
    parsers = {".txt": _parse_txt, ".json": _parse_json, ".tsv": _parse_tsv}
    try:
        parse = parsers[path.suffix.lower()]
    except KeyError:
        raise InputError(f"labels cannot be read from {path}: give a .txt, .json or .tsv file") from None
    try:
        labels = parse(path.read_text(encoding="utf-8-sig"))
        _check(labels)
    except FileNotFoundError:
        raise InputError(f"the labels file {path} does not exist") from None
    except OSError as error:
        raise InputError(f"the labels file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"the labels file {path} is not UTF-8 text") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"the labels file {path} cannot be used: {error}") from error
    return labels


def imagenet_labels() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet-1k, in the order of the published weights."""
    text = resources.files("model_export").joinpath("data", "imagenet1k_classes.tsv").read_text(encoding="utf-8")
    return _parse_tsv(text)


def _parse_txt(text: str) -> tuple[Label, ...]:
    return tuple(Label(name=line.strip()) for line in text.rstrip().splitlines())


def _parse_json(text: str) -> tuple[Label, ...]:
    # Objects become tuples of pairs, so that a repeated key is seen instead of overwriting the earlier one.
    content = json.loads(text, object_pairs_hook=tuple)
    if isinstance(content, list):
        return tuple(_json_label(entry) for entry in content)
    if isinstance(content, tuple) and content and all(type(index) is int for _, index in content):
        return _by_index((str(index), _json_label(name)) for name, index in content)
    if isinstance(content, tuple):
        return _by_index((key, _json_label(entry)) for key, entry in content)
    raise ValueError("it holds neither a list of names nor an object from index to name")


def _json_label(entry: object) -> Label:
    match entry:
        case str(name):
            return Label(name=name.strip())
        case [str(wnid), str(name)]:
            return Label(name=name.strip(), wnid=wnid)
    raise ValueError(f'{json.dumps(entry)} is neither a name nor ["wnid", "name"]')


def _parse_tsv(text: str) -> tuple[Label, ...]:
    rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(rows, [])
    if header != ["index", "wnid", "name"]:
        raise ValueError(f"its header is {' '.join(header)!r}, not the three columns index, wnid, name")
    pairs = []
    for row in rows:
        if len(row) != 3:
            raise ValueError(f"line {rows.line_num} has {len(row)} columns instead of 3")
        index, wnid, name = row
        pairs.append((index, Label(name=name.strip(), wnid=wnid.strip() or None)))
    return _by_index(pairs)


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
