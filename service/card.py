"""The model card: what `model_export` writes beside an ONNX file and `service` reads. Their only contract.

A published model is a folder `models/<name>/<version>/` holding `card.json`, `model.onnx` (and, where made,
`model.int8.onnx`, `model.fp16.onnx`) and `self_test.npz`. Versions are positive integers without leading zeros, so
that Triton loads the same tree.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
import unicodedata
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

log = logging.getLogger(__name__)

CARD_FILE = "card.json"
SELF_TEST_FILE = "self_test.npz"

# Stride placement in a bottleneck: "v1" (the paper) in the first 1x1, "v1.5" (torchvision) in the 3x3. Their weights
# have identical shapes, so nothing but this field tells them apart.
Variant = Literal["v1", "v1.5"]

# Section 3.3 and 4.1 of the paper. A: identity, zero-padded channels. B: projection where shapes change.
# C: projection everywhere. (None: no shortcut, a plain net.)
Shortcut = Literal["A", "B", "C"]

Precision = Literal["fp32", "fp16", "int8"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

MODEL_FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
VERSION = re.compile(r"[1-9][0-9]*")


class CardError(Exception):
    """A published folder that cannot be used: the message names the file, the fault and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Part):
    """Which network: everything that must be known, besides the weights, to rebuild it."""

    depth: int
    family: Literal["imagenet", "cifar"] = "imagenet"
    variant: Variant = "v1.5"
    shortcut: Shortcut | None = "B"
    num_classes: int = Field(default=1000, ge=1)

    @property
    def has_bottlenecks(self) -> bool:
        """Whether v1 and v1.5 differ for this network: only bottlenecks have a stride to place."""
        return self.family == "imagenet" and self.depth >= 50

    @property
    def name(self) -> str:
        """A name for models of this architecture: `resnet50`, `plain34`, `resnet20-cifar`."""
        kind = "plain" if self.shortcut is None else "resnet"
        return f"{kind}{self.depth}" + ("-cifar" if self.family == "cifar" else "")


MOST_STD = 4.0  # of pixels from 0 to 1 it is 0.5 at most; some nets divide by 1, or by a little more


def _three(numbers: tuple[float, float, float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


class Preprocessing(_Part):
    """From a decoded RGB image to the network's input.

    The shorter side is resized to `resize` pixels, the centre `crop` x `crop` is cut out; `mean` and `std` (of pixels
    divided by 255, RGB) are applied inside the ONNX graph, whose input is uint8 `[batch, 3, crop, crop]`. With
    `mean_image` the graph subtracts a mean per pixel, as in the paper; `mean` is then the average of that image.
    """

    resize: int = Field(default=256, ge=1)
    crop: int = Field(default=224, ge=1)
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mean_image: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Preprocessing:
        if self.crop > self.resize:
            raise ValueError(
                f"crop {self.crop} is larger than the resized shorter side {self.resize}: give --resize, too"
            )
        if max(self.mean) > 1 or max(self.std) > MOST_STD:
            raise ValueError(
                f"mean {_three(self.mean)} and std {_three(self.std)} are of pixels from 0 to 255: divide them by 255"
            )
        if min(self.mean) < 0 or min(self.std) <= 0:
            raise ValueError(
                f"mean {_three(self.mean)} and std {_three(self.std)} are none that pixels from 0 to 1 have"
            )
        return self


class Label(_Part):
    """One class. `wnid` is its WordNet id where it has one (ImageNet)."""

    name: str
    wnid: str | None = None

    @field_validator("name")
    @classmethod
    def _composed(cls, name: str) -> str:
        """In Unicode's composed form (NFC): macOS decomposes names of folders, and both are the same class."""
        return unicodedata.normalize("NFC", name)


class Weights(_Part):
    """Where the weights came from: `source` for people, `sha256` of the file that was read (None: trained here)."""

    source: str
    sha256: str | None = None
    license: str | None = None


class Accuracy(_Part):
    """Measured (or published) accuracy, as fractions in [0, 1]."""

    dataset: str
    images: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    top5: float = Field(ge=0, le=1)


class Calibration(_Part):
    """How far probabilities can be trusted, and what makes them trustworthier: `softmax(logits / temperature)`.

    Temperature scaling, "On Calibration of Modern Neural Networks" (Guo et al. 2017), section 4.2. It was fitted on one
    half of the images; the expected calibration errors, fractions in [0, 1], are those of the other half.
    """

    temperature: float = Field(gt=0, allow_inf_nan=False)
    ece_before: float = Field(ge=0, le=1)
    ece_after: float = Field(ge=0, le=1)
    dataset: str
    images: int = Field(ge=1)


class Parity(_Part):
    """How far the ONNX file is from PyTorch on the same inputs (DESIGN: the export gate)."""

    batch_sizes: tuple[int, ...]
    max_abs_difference: float
    top1_agreement: float
    top5_agreement: float


CalibrationMethod = Literal["minmax", "entropy", "percentile"]


class Quantisation(_Part):
    """How a file of int8 was made: the ranges of activations, and the layers that kept their floats.

    Activations are uint8, weights int8 per channel, symmetric; the graph says so with QuantizeLinear and
    DequantizeLinear nodes (QDQ).
    """

    method: CalibrationMethod
    dataset: str
    images: int = Field(ge=1)
    float_layers: tuple[str, ...] = ()


class Gate(_Part):
    """What a file of lower precision was found to do before it was published, beside the fp32 file.

    Shares of the images, as fractions in [0, 1]; `accuracy_lost` is fp32's top-1 accuracy minus its own (below 0 where
    it gained), None where the images have no labels that the model knows. `limit` is the most that it was allowed to
    lose: of accuracy where there are labels, else of agreement.
    """

    dataset: str
    images: int = Field(ge=1)
    top1_agreement: float = Field(ge=0, le=1)
    accuracy_lost: float | None = Field(default=None, ge=-1, le=1)
    limit: float = Field(ge=0, le=1)


class ModelFile(_Part):
    """One ONNX file of the folder: that of fp32 is proven against PyTorch, the others against that one."""

    file: str
    sha256: str
    bytes: int
    parity: Parity | None = None
    gate: Gate | None = None
    quantisation: Quantisation | None = None


class ModelCard(_Part):
    """Everything known about one published version of one model."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    created: datetime
    architecture: Architecture
    parameters: int
    weights: Weights
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    files: dict[Precision, ModelFile]
    self_test_sha256: str
    accuracy: Accuracy | None = None
    calibration: Calibration | None = None
    tools: dict[str, str]

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime) -> datetime:
        """With Python's own time zone: pydantic's, freed when the interpreter has gone, may end it by SIGSEGV."""
        return created.astimezone(UTC)

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.architecture.num_classes} classes")
        if "fp32" not in self.files:
            raise ValueError("the fp32 file is missing: every other precision is measured against it")
        if self.files["fp32"].parity is None:
            raise ValueError("the fp32 file has no parity: it was never proven against PyTorch")
        return self

    @property
    def parity(self) -> Parity:
        """Of the fp32 file."""
        parity = self.files["fp32"].parity
        assert parity is not None  # _consistent
        return parity

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """The card of a published folder.

        Raises:
            CardError: there is none, it cannot be read, it is not valid, or it is that of another folder.
        """
        path = folder / CARD_FILE
        try:
            card = cls.model_validate_json(path.read_bytes())
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
                f"{path} is the card of {card.name} {card.version}: a published folder keeps its name; "
                "to have another, export it again with --name"
            )
        return card

    def to_json(self) -> str:
        """The text of `card.json`."""
        return self.model_dump_json(indent=2) + "\n"


class Published(NamedTuple):
    """A version folder, found by name; its card is not read yet."""

    name: str
    version: int
    path: Path


def published(root: Path) -> Iterator[Published]:
    """Every published version under a model folder, by name, then version, ascending.

    Folders being written carry names that are no version and are passed over; so are, with a word, folders of models
    that cannot be read. A root that does not exist is empty.

    Raises:
        CardError: the root cannot be read.
    """
    try:
        if not root.is_dir():
            return
        models = sorted(path for path in root.iterdir() if path.is_dir() and re.fullmatch(NAME_PATTERN, path.name))
    except OSError as error:
        raise CardError(f"{root} cannot be read ({error.strerror}): let this user read it") from None
    for model in models:
        try:
            versions = [int(path.name) for path in model.iterdir() if path.is_dir() and VERSION.fullmatch(path.name)]
        except OSError as error:
            log.warning("%s cannot be read (%s) and is passed over: let this user read it", model, error.strerror)
            continue
        for version in sorted(versions):
            yield Published(model.name, version, model / str(version))


def nothing_in(root: Path) -> str:
    """Why nothing is published in a model folder, and what to do."""
    if root.exists() and not root.is_dir():
        return f"{root} is a file, and no model folder: give the folder that `python -m model_export` fills"
    for folder, model in ((root.parent.parent, root.parent.name), (root.parent, root.name)):
        if any((folder / model).glob(f"*/{CARD_FILE}")):
            return f"{root} is of the model {model}, and no model folder: give {folder}"
    state = "nothing is published in" if root.exists() else "there is no folder"
    return f"{state} {root}: fill it with `python -m model_export quickstart --models-dir {shlex.quote(str(root))}`"


class SelfTest(NamedTuple):
    """Inputs and the network's answers to them, stored at export so that a server can prove itself numerically.

    Attributes:
        images: uint8 `(N, 3, crop, crop)`.
        logits: float32 `(N, num_classes)`, computed in float64.
        rounding: how far PyTorch in float32 was from them, relative to their range; None in older files.
    """

    images: np.ndarray
    logits: np.ndarray
    rounding: float | None = None

    @classmethod
    def read(cls, folder: Path) -> SelfTest:
        """Raises CardError when the file is missing or not what `write` wrote."""
        path = folder / SELF_TEST_FILE
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                rounding = float(stored["rounding"]) if "rounding" in stored else None
                return cls(stored["images"], stored["logits"], rounding)
        except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CardError(f"{path} cannot be read ({error}): publish the model again") from error

    def write(self, folder: Path) -> None:
        more = {} if self.rounding is None else {"rounding": np.array(self.rounding)}
        np.savez_compressed(folder / SELF_TEST_FILE, images=self.images, logits=self.logits, **more)  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_digests(folder: Path, card: ModelCard) -> None:
    """Checks every file the card names.

    Raises:
        CardError: a file cannot be read or is not the one that was published.
    """
    expected = {entry.file: entry.sha256 for entry in card.files.values()} | {SELF_TEST_FILE: card.self_test_sha256}
    for name, digest in expected.items():
        path = folder / name
        try:
            found = sha256(path)
        except OSError as error:
            raise CardError(f"{path} cannot be read ({error.strerror}): publish the model again") from None
        if found != digest:
            raise CardError(f"{path} has SHA-256 {found}, its card says {digest}: publish the model again")
