"""Reads files of `torch.save` without running any code that they hold."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from model_export.errors import InputError
from model_export.weights.file_kinds import COPY


def _plain_dict(*factory: object) -> dict[object, object]:
    """Stands in for a defaultdict, which weights-only `torch.load` refuses to fill."""
    return {}


def _plain_list(items: Iterable[object] = (), *maxlen: object) -> list[object]:
    """Stands in for a deque, which weights-only `torch.load` refuses to fill."""
    return list(items)


class _Discarded:
    """Stands in for an object that nothing here needs: accepts its state and keeps none of it."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class DiscardedArray(_Discarded):
    """Stands in for a NumPy array: NumPy's own unpickling allocates whatever memory the file asks for."""


class _Dtype:
    """Stands in for a NumPy dtype: its code (such as f8) and its byte order."""

    def __init__(self, code: str, *flags: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(dtype: _Dtype, raw: object = b"") -> object:
    """A NumPy number; None for scalars of any other type."""
    code = f"{dtype.order}{dtype.code}"
    return np.frombuffer(raw, code)[0] if re.fullmatch(r"[<>=|][iufb][1248]", code) and isinstance(raw, bytes) else None


# What training scripts save beside the weights: arguments, paths, dates, collections, NumPy numbers and arrays, states
# of random generators. These are as harmless as the dicts and numbers that weights-only `torch.load` always allows.
HARMLESS: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    (_plain_dict, "collections.defaultdict"),
    (_plain_list, "collections.deque"),
    *(
        (getattr(pathlib, f"Pure{kind}"), f"{module}.{pure}{kind}")
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for kind in ("PosixPath", "WindowsPath")
    ),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((DiscardedArray, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (DiscardedArray, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    *((_Discarded, f"datetime.{kind}") for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *((_Discarded, name) for name in ("decimal.Decimal", "fractions.Fraction", "uuid.UUID")),
    *((_Discarded, f"numpy.random._pickle.__{kind}_ctor") for kind in ("generator", "bit_generator", "randomstate")),
    *((_Discarded, f"numpy.random.{kind}") for kind in ("_pcg64.PCG64", "_mt19937.MT19937", "_philox.Philox")),
    (_Discarded, "numpy.random.bit_generator.__pyx_unpickle_SeedSequence"),
    (_Discarded, "numpy.random.bit_generator.SeedSequence"),
    dict,
    frozenset,
    list,
    set,
    *((_Discarded, f"builtins.{kind}") for kind in ("range", "slice")),
]


def read_pickle(path: Path) -> object:
    """The content of a file of `torch.save`, tensors on the CPU; the objects in `HARMLESS` may be in it.

    Raises:
        InputError: the file is truncated or damaged, or unpickling it would run code.
    """
    # An open file, because `torch.load` interprets file names.
    with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about old pickle protocols and beta kinds of tensors
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes, read as opcodes, raise any kind of error
            size = path.stat().st_size
            if (file.tell() == size and not zipfile.is_zipfile(path)) or "unexpected EOF" in str(error):
                raise InputError(f"{path} is truncated at {size} bytes: {COPY}") from error
            raise InputError(f"{path} {_fault(error)}") from error


def _fault(error: Exception) -> str:
    """Why `torch.load` failed, and what to do about it."""
    refused = isinstance(error, pickle.UnpicklingError)
    if refused and (forbidden := re.search(r"GLOBAL (\S+)", str(error))):
        return (
            f"is refused: it holds the pickled Python object `{forbidden[1]}`, and unpickling such objects (a whole "
            "module saved by `torch.save(net)` is one) can run any code. If you trust it, load it where it was made "
            "and save only the weights, with `torch.save(net.state_dict(), ...)` or as .safetensors"
        )
    if refused and (unread := re.search(r"WeightsUnpickler error:\s*(.+)", str(error))):
        return (
            f"is damaged, or was saved in a way that cannot be read safely ({unread[1].rstrip('.')}): {COPY}, or load "
            "it where it was made and save its state dict with `torch.save(net.state_dict(), ...)`"
        )
    return f"is damaged or not a PyTorch file ({type(error).__name__}): {COPY}"
