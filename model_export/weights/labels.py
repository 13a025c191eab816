"""Class names: of a label file, of ImageNet-1k, or within the content of a weight file."""

from __future__ import annotations

import csv
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from importlib import resources
from pathlib import Path

from model_export.errors import InputError
from model_export.weights.label_formats import parse_csv, parse_json, parse_object, parse_tsv, parse_txt
from service.runtime.model_card import Label

LABEL_FILES = ("labels.txt", "labels.json", "labels.tsv")  # looked for beside a weight file

PARSERS = {".txt": parse_txt, ".json": parse_json, ".tsv": parse_tsv, ".csv": parse_csv}


def read_labels(path: Path) -> tuple[Label, ...]:
    """The labels of a file, in the order of the network's logits.

    - `.txt`: one name a line; empty lines at the end are ignored. If every line begins (or ends) with a number and the
      numbers are 0 to n-1 or 1 to n, they give the order. If every line begins with a WordNet id, the label keeps it. A
      Python dict or list is read as JSON is;
    - `.json`: `["tench", ...]`, `{"0": "tench", ...}`, `{"0": ["n01440764", "tench"], ...}`, torchvision's
      `class_to_idx` `{"tench": 0, ...}`, or `[{"id": 0, "name": "tench"}, ...]`; also any of these under one of
      `NAME_KEYS`, as in Hugging Face's config.json;
    - `.tsv`, `.csv`: a header with `index`, `name` and optionally `wnid`, then one class a line (the WordNet id may be
      empty).

    Raises:
        InputError: the file is missing or malformed, or a label is empty, repeated or left out.
    """
    try:
        parse = PARSERS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"labels cannot be read from {path}: pass a .txt, .json, .tsv or .csv file") from None
    try:
        return _checked(parse(_text(path.read_bytes())))
    except FileNotFoundError:
        raise InputError(f"the label file {path} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"the label file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"the label file {path} is not UTF-8 text: save it as UTF-8") from None
    except (RecursionError, MemoryError):
        raise InputError(f"the label file {path} is nested too deeply: write a plain list of names") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"the label file {path} cannot be used: {error}") from error


def labels_in(content: object) -> tuple[Label, ...] | None:
    """The labels in a Python object, which may have any form of a `.json` file; None if it holds none."""
    try:
        return _checked(parse_object(content))
    except (ValueError, RecursionError):
        return None


def imagenet_labels() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet-1k, in the order of torchvision's weights."""
    text = resources.files("model_export").joinpath("data", "imagenet1k_classes.tsv").read_text(encoding="utf-8")
    return parse_tsv(text)


def _text(raw: bytes) -> str:
    # Windows writes UTF-16 with a byte order mark.
    text = raw.decode("utf-16" if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL characters, as UTF-16 text and binary files do: save it as UTF-8 text")
    return text


def _checked(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """The labels, with WordNet ids if they are ImageNet's classes.

    Raises:
        ValueError: there is none, or one is empty or repeated.
    """
    if not labels:
        raise ValueError("it is empty: write one name for each class")
    labels = _with_wordnet_ids(labels)
    for index, label in enumerate(labels):
        if not label.name:
            raise ValueError(f"the label of class {index} is empty: name that class")
    # Two classes may share a name (ImageNet's two cranes), but then their WordNet ids must tell them apart.
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        indices = ", ".join(str(index) for index, other in enumerate(labels) if other == label)
        raise ValueError(f"{label.name!r} names classes {indices}: make the names differ or add WordNet ids")
    return labels


def _with_wordnet_ids(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """Adds WordNet ids to a list of ImageNet's classes: without them its two cranes are the same label."""
    if len(labels) != 1000 or any(label.wnid for label in labels):
        return labels
    imagenet = imagenet_labels()
    same = sum(label.name.partition(",")[0] == known.name for label, known in zip(labels, imagenet, strict=True))
    if same < 900:
        return labels
    return tuple(Label(name=label.name, wnid=known.wnid) for label, known in zip(labels, imagenet, strict=True))
