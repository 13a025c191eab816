"""The model folder: finding published models, reading their cards, verifying their files.

A published model is a folder `models/<name>/<version>/` with `card.json`, `model.onnx`, `self_test.npz`,
`classifier.npy` and optionally `model.int8.onnx` and `model.fp16.onnx`. Versions are positive integers without leading
zeros: Triton loads the same tree.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from service.runtime.choices import FilePrecision
from service.runtime.model_card import NAME_PATTERN, ModelCard

log = logging.getLogger(__name__)

CARD_FILE = "card.json"
SELF_TEST_FILE = "self_test.npz"
CLASSIFIER_FILE = "classifier.npy"  # see `class_activation`

MODEL_FILES: dict[FilePrecision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}

VERSION_PATTERN = re.compile(r"[1-9][0-9]*")


class CardError(Exception):
    """A published folder cannot be used. The message names the file, the fault and the remedy."""


class ModelVersion(NamedTuple):
    """A version folder, found by its name. Its card has not been read."""

    name: str
    version: int
    path: Path


def _warn(name: str, fault: str) -> None:
    log.warning("Skipping %s: %s", name, fault)


def model_versions(root: Path, unlisted: Callable[[str, str], None] = _warn) -> Iterator[ModelVersion]:
    """All published versions under a model folder, sorted by name, then version.

    Skips folders whose name is not a version, such as those being written. A root that does not exist is empty.

    Args:
        unlisted: told the name of a model whose folder cannot be listed, and why.

    Raises:
        CardError: the root cannot be read.
    """
    try:
        if not root.is_dir():
            return
        models = sorted(path for path in root.iterdir() if path.is_dir() and re.fullmatch(NAME_PATTERN, path.name))
    except OSError as error:
        raise CardError(f"{root} cannot be read ({error.strerror}): give this user read permission") from None
    for model in models:
        try:
            versions = [
                int(path.name) for path in model.iterdir() if path.is_dir() and VERSION_PATTERN.fullmatch(path.name)
            ]
        except OSError as error:
            unlisted(model.name, f"{model} cannot be listed ({error.strerror}): give this user read permission")
            continue
        for version in sorted(versions):
            yield ModelVersion(model.name, version, model / str(version))


def read_card(folder: Path) -> ModelCard:
    """The card of a published folder.

    Raises:
        CardError: the card is missing, unreadable or invalid, or it belongs to another folder.
    """
    path = folder / CARD_FILE
    try:
        card = ModelCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CardError(f"{path} does not exist: publish the model again with `python -m model_export`") from None
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise CardError(f"{path} is not a valid model card: {where}: {first['msg']}; publish it again") from error
    if (card.name, str(card.version)) != (folder.parent.name, folder.name):
        raise CardError(
            f"{path} is the card of {card.name} {card.version}: published folders must not be renamed; "
            "to change the name, export the model again with --name"
        )
    return card


def explain_empty(root: Path) -> str:
    """Explains why a model folder has no published models, and what to do."""
    if root.exists() and not root.is_dir():
        return f"{root} is a file, not a model folder: give the folder that `python -m model_export` fills"
    for folder, model in ((root.parent.parent, root.parent.name), (root.parent, root.name)):
        if any((folder / model).glob(f"*/{CARD_FILE}")):
            return f"{root} is inside a model folder, as part of the model {model}: give {folder}"
    state = "nothing is published in" if root.exists() else "there is no folder"
    return f"{state} {root}: fill it with `python -m model_export quickstart --models-dir {shlex.quote(str(root))}`"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_digests(folder: Path, card: ModelCard) -> None:
    """Compares every file that the card names with its SHA-256.

    The last layer may be missing, which only explanations need: an older release that publishes a version again leaves
    it behind.

    Raises:
        CardError: a file cannot be read, or has changed since it was published.
    """
    published = {entry.file: entry.sha256 for entry in card.files.values()} | {SELF_TEST_FILE: card.self_test_sha256}
    if card.classifier_sha256 and (folder / CLASSIFIER_FILE).exists():
        published[CLASSIFIER_FILE] = card.classifier_sha256
    for name, expected in published.items():
        path = folder / name
        try:
            actual = sha256(path)
        except OSError as error:
            raise CardError(f"{path} cannot be read ({error.strerror}): publish the model again") from None
        if actual != expected:
            raise CardError(f"{path} has SHA-256 {actual}, its card says {expected}: publish the model again")
