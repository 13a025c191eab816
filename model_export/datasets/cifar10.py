"""CIFAR-10: 50,000 + 10,000 images of 32x32 pixels in ten classes (https://www.cs.toronto.edu/~kriz/cifar.html).

Both published forms are read, the binary one and the one of pickled NumPy arrays, from the archive itself or unpacked.
Of a pickle nothing but arrays, numbers and text is accepted.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from model_export.datasets.base import Data
from model_export.datasets.in_memory import InMemory
from model_export.download import download, in_home
from model_export.errors import InputError
from service.card import sha256

URL = "https://www.cs.toronto.edu/~kriz/"
URL_VARIABLE = "MODEL_EXPORT_CIFAR10_URL"

TRAIN_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST_BATCH = "test_batch"
META = "batches.meta"
BATCH_SIZE = 10_000
CLASSES = 10
PIXELS = 3 * 32 * 32  # bytes of an image: all of red, then green, then blue, each row by row


class Form(NamedTuple):
    """One of the published archives, and the folder in it."""

    archive: str
    sha256: str
    folder: str
    suffix: str  # of its batch files
    meta_suffix: str


BINARY = Form(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-10-batches-bin",
    ".bin",
    ".txt",
)
PYTHON = Form(
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-10-batches-py",
    "",
    "",
)
FORMS = (BINARY, PYTHON)


class _Batch(NamedTuple):
    labels: np.ndarray  # int64 (N,)
    pixels: np.ndarray  # uint8 (N, 3072)


def open_cifar10(where: Path | None = None) -> Data:
    """The published parts: 50,000 images to train on, 10,000 to validate on (the paper's test set, section 4.2).

    Args:
        where: an archive, an unpacked folder, or the folder that holds one of these; by default the cache
            (`$XDG_CACHE_HOME/resnet-service/cifar10`), into which the binary archive is downloaded if it is empty.

    Raises:
        Unavailable: there is none in the cache, and it cannot be downloaded.
        InputError: what is there is not CIFAR-10, or is damaged.
    """
    found = _find(where) if where else _cached()
    form = _form_of(found)
    files = _unpacked(found, form) if found.is_dir() else _members(found)
    try:
        parse = _parse_binary if form is BINARY else _parse_pickle
        classes = _class_names(files[META + form.meta_suffix], form)
        train = [parse(files[name + form.suffix]) for name in TRAIN_BATCHES]
        test = [parse(files[TEST_BATCH + form.suffix])]
    except KeyError as error:
        raise InputError(f"{found} lacks {error.args[0]}: unpack or download {form.archive} again") from None
    except _Malformed as error:
        raise InputError(f"{found} is not CIFAR-10 as published ({error}): download {form.archive} again") from error
    return Data(_joined("CIFAR-10 train", classes, train), _joined("CIFAR-10 test", classes, test))


class _Malformed(Exception):
    """A file that is not of the published format; the message says what is wrong."""


def _cached() -> Path:
    """The cache's archive or unpacked folder, downloaded if there is none."""
    cache = in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "resnet-service" / "cifar10"
    if found := _held_by(cache):
        return found
    archive = cache / BINARY.archive
    base_url = os.environ.get(URL_VARIABLE) or URL
    download(
        f"{base_url.rstrip('/')}/{BINARY.archive}",
        archive,
        BINARY.sha256,
        by_hand="give it with `--data cifar10:PATH`",
        other_disk="set XDG_CACHE_HOME to a folder on another disk",
    )
    return archive


def _find(where: Path) -> Path:
    if where.is_file():
        return where
    if not where.exists():
        raise InputError(f"{where} does not exist: give {BINARY.archive}, {PYTHON.archive} or the folder of one")
    if any((where / (TEST_BATCH + form.suffix)).is_file() for form in FORMS):
        return where
    if found := _held_by(where):
        return found
    expected = ", ".join(name for form in FORMS for name in (form.archive, f"{form.folder}/"))
    raise InputError(f"{where} holds nothing of CIFAR-10: put one of {expected} there")


def _held_by(folder: Path) -> Path | None:
    candidates = (folder / name for name in (*(form.archive for form in FORMS), *(form.folder for form in FORMS)))
    return next((path for path in candidates if path.exists()), None)


def _form_of(found: Path) -> Form:
    """Which form a folder or archive is of. Archives are known by their digest, whatever they are called."""
    if found.is_dir():
        return BINARY if (found / (TEST_BATCH + BINARY.suffix)).is_file() else PYTHON
    digest = sha256(found)
    for form in FORMS:
        if form.sha256 == digest:
            return form
    expected = " or ".join(f"{form.sha256} ({form.archive})" for form in FORMS)
    raise InputError(
        f"{found} is no published archive of CIFAR-10, or is damaged: its SHA-256 should be {expected}, found "
        f"{digest}: delete it and download it again"
    )


def _members(archive: Path) -> dict[str, bytes]:
    """The files of an archive by name; nothing is written to disk."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            files = ((member, tar.extractfile(member)) for member in tar)  # read in turn: there is no going back
            return {PurePosixPath(member.name).name: file.read() for member, file in files if file}
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive} is damaged or cut short ({error}): download it again") from error


def _unpacked(folder: Path, form: Form) -> dict[str, bytes]:
    names = (*(name + form.suffix for name in (*TRAIN_BATCHES, TEST_BATCH)), META + form.meta_suffix)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _joined(name: str, classes: tuple[str, ...], batches: list[_Batch]) -> InMemory:
    pixels = np.concatenate([batch.pixels for batch in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return InMemory(name, classes, torch.from_numpy(images), np.concatenate([batch.labels for batch in batches]))


def _checked(labels: np.ndarray, pixels: np.ndarray) -> _Batch:
    if pixels.shape != (BATCH_SIZE, PIXELS) or labels.shape != (BATCH_SIZE,):
        raise _Malformed(
            f"a batch has pixels of shape {pixels.shape} and {len(labels)} labels, not {BATCH_SIZE} images"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise _Malformed(f"labels go from {labels.min()} to {labels.max()}, not from 0 to {CLASSES - 1}")
    return _Batch(labels.astype(np.int64), pixels)


def _class_names(meta: bytes, form: Form) -> tuple[str, ...]:
    names: Any = meta.split() if form is BINARY else _unpickled(meta).get(b"label_names")
    if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(name, bytes) for name in names):
        raise _Malformed(f"{META} does not name {CLASSES} classes")
    return tuple(name.decode("ascii", "replace") for name in names)


def _parse_binary(data: bytes) -> _Batch:
    """Records of one byte, the label, and the pixels."""
    if len(data) != BATCH_SIZE * (1 + PIXELS):
        raise _Malformed(f"a batch has {len(data)} bytes, not {BATCH_SIZE * (1 + PIXELS)}")
    records = np.frombuffer(data, np.uint8).reshape(BATCH_SIZE, 1 + PIXELS)
    return _checked(records[:, 0], records[:, 1:])


def _parse_pickle(data: bytes) -> _Batch:
    """A dictionary with the entries `data` and `labels`, among others, written by Python 2."""
    content = _unpickled(data)
    labels, pixels = content.get(b"labels"), content.get(b"data")
    if not isinstance(pixels, _Array) or not isinstance(labels, list) or not all(type(i) is int for i in labels):
        raise _Malformed("a batch lacks its array `data` or its list `labels`")
    return _checked(np.array(labels), pixels.array)


def _unpickled(data: bytes) -> Mapping[bytes, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Malformed:
        raise
    except Exception as error:  # damaged bytes, read as opcodes, raise whatever they happen to mean
        raise _Malformed(f"a file cannot be unpickled: {error}") from error
    if not isinstance(content, dict):
        raise _Malformed(f"a file holds a {type(content).__name__}, not a dictionary")
    return content


class _Type:
    """Stands for `numpy.dtype`."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind != b"u1":
            raise _Malformed(f"an array is of type {kind!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for `numpy.ndarray` and what rebuilds one, of which none is called."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes]) -> None:
        _, shape, _, fortran, data = state
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds dictionaries, lists, numbers, text and arrays of bytes; calls nothing but the two classes above."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise _Malformed(f"a file holds the pickled Python object `{module}.{name}`, which could run any code")
        return _STAND_INS[module, name]
