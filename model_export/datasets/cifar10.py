"""CIFAR-10: 50,000 + 10,000 images of 32x32 pixels in ten classes.

Reads both published forms (https://www.cs.toronto.edu/~kriz/cifar.html), binary and pickled NumPy arrays, from the
archive or unpacked. Pickles may hold arrays, numbers and text only.
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
from model_export.datasets.holding_out import Fold, hold_out
from model_export.datasets.in_memory import InMemory
from model_export.errors import InputError
from model_export.paths import cache_folder, expand_home
from model_export.weights.download import download
from service.runtime.model_folder import sha256

URL = "https://www.cs.toronto.edu/~kriz/"
URL_VARIABLE = "MODEL_EXPORT_CIFAR10_URL"
AS_PUBLISHED = "train,test"  # value of `split`

TRAIN_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST_BATCH = "test_batch"
META = "batches.meta"
BATCH_SIZE = 10_000
CLASSES = 10
PIXELS = 3 * 32 * 32  # bytes of an image: the red plane, then green, then blue, each row by row


class Form(NamedTuple):
    """One of the published archives, and the folder in it.

    Attributes:
        suffix: of its batch files.
        meta_suffix: of the file with the class names.
    """

    archive: str
    sha256: str
    folder: str
    suffix: str
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


def open_cifar10(where: Path | None = None, *, seed: int = 0, fold: Fold | None = None, split: str = "auto") -> Data:
    """CIFAR-10, with a tenth of its training part kept for validation, or as published.

    In section 4.2 of He et al. 2015 the first division determines the length of the training, and the second one is
    that of the results: networks are trained on all 50,000 images, and evaluated on the test part.

    Args:
        where: an archive, an unpacked folder, or the folder that holds one of these; by default the cache,
            `$XDG_CACHE_HOME/resnet-service/cifar10`. If the cache is empty, the binary archive is downloaded.
        seed, fold: as for `hold_out`.
        split: "auto": 45,000 images to train on, 5,000 to validate on, 10,000 to test on, the training part divided at
            random, class by class. "train,test": 50,000 to train on, and the test part to validate on.

    Raises:
        Unavailable: the cache is empty, and the archive cannot be downloaded.
        InputError: the path is not CIFAR-10, or is damaged; or there is no such split.
    """
    if split not in ("auto", AS_PUBLISHED):
        raise InputError(f"CIFAR-10 has no parts {split}: give `--split {AS_PUBLISHED}`, or leave --split out")
    if split == AS_PUBLISHED and fold:
        raise InputError(f"--split {AS_PUBLISHED} trains on all images: leave it out, or --folds and --fold")
    source = _find(expand_home(where)) if where else _cached()
    form = _form_of(source)
    files = _unpacked(source, form) if source.is_dir() else _members(source)
    try:
        parse = _parse_binary if form is BINARY else _parse_pickle
        classes = _class_names(files[META + form.meta_suffix], form)
        train = [parse(files[name + form.suffix]) for name in TRAIN_BATCHES]
        test = [parse(files[TEST_BATCH + form.suffix])]
    except KeyError as error:
        raise InputError(f"{source} lacks {error.args[0]}: unpack or download {form.archive} again") from None
    except _Malformed as error:
        raise InputError(f"{source} is not CIFAR-10 as published ({error}): download {form.archive} again") from error
    whole = _joined("CIFAR-10 train", classes, train)
    tested = _joined("CIFAR-10 test", classes, test)
    return Data(whole, tested) if split == AS_PUBLISHED else Data(*hold_out(whole, seed=seed, fold=fold), tested)


class _Malformed(Exception):
    """A file is not in the published format; the message names the fault."""


def _cached() -> Path:
    """The archive or unpacked folder in the cache; downloads the archive if there is neither."""
    cache = cache_folder(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "resnet-service" / "cifar10"
    if source := _in_folder(cache):
        return source
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
    if source := _in_folder(where):
        return source
    expected = ", ".join(name for form in FORMS for name in (form.archive, f"{form.folder}/"))
    raise InputError(f"{where} does not hold CIFAR-10: put one of {expected} there")


def _in_folder(folder: Path) -> Path | None:
    """The archive or unpacked folder in a folder."""
    candidates = (folder / name for name in (*(form.archive for form in FORMS), *(form.folder for form in FORMS)))
    return next((path for path in candidates if path.exists()), None)


def _form_of(source: Path) -> Form:
    """The form of a folder or archive. Archives are recognised by their digest, not by their name."""
    if source.is_dir():
        return BINARY if (source / (TEST_BATCH + BINARY.suffix)).is_file() else PYTHON
    digest = sha256(source)
    for form in FORMS:
        if form.sha256 == digest:
            return form
    expected = " or ".join(f"{form.sha256} ({form.archive})" for form in FORMS)
    raise InputError(
        f"{source} is not a published archive of CIFAR-10, or is damaged: its SHA-256 should be {expected}, but is "
        f"{digest}: delete it and download it again"
    )


def _members(archive: Path) -> dict[str, bytes]:
    """The files of an archive by name, read without unpacking to disk."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Read in order: seeking back would decompress from the start again.
            files = ((member, tar.extractfile(member)) for member in tar)
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
    """Reads records of one byte for the label, then the pixels."""
    if len(data) != BATCH_SIZE * (1 + PIXELS):
        raise _Malformed(f"a batch has {len(data)} bytes, not {BATCH_SIZE * (1 + PIXELS)}")
    records = np.frombuffer(data, np.uint8).reshape(BATCH_SIZE, 1 + PIXELS)
    return _checked(records[:, 0], records[:, 1:])


def _parse_pickle(data: bytes) -> _Batch:
    """Reads a dictionary that Python 2 wrote, with the entries `data` and `labels` among others."""
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
    except Exception as error:  # damaged bytes are read as opcodes, and can raise anything
        raise _Malformed(f"a file cannot be unpickled: {error}") from error
    if not isinstance(content, dict):
        raise _Malformed(f"a file holds a {type(content).__name__}, not a dictionary")
    return content


class _Type:
    """Stands in for `numpy.dtype`."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind != b"u1":
            raise _Malformed(f"an array is of type {kind!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for `numpy.ndarray` and its `_reconstruct`, neither of which is ever called."""

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
    """Rebuilds dictionaries, lists, numbers, text and arrays of bytes; calls only the two classes above."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise _Malformed(f"a file holds the pickled Python object `{module}.{name}`, which could run any code")
        return _STAND_INS[module, name]
