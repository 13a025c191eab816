"""Files of weights: `.safetensors`, and what `torch.save` wrote. Nothing in a file is executed.

Our own files also record what the weights are for (`Record`), so that nothing has to be said again when they are
evaluated, fine-tuned or exported.
"""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model_export.disk import write_whole
from model_export.errors import InputError, some
from model_export.file_kinds import COPY, begins_as_safetensors, check_kind
from model_export.labels import NAME_KEYS, labels_of
from service.card import Accuracy, Architecture, Label, Preprocessing

logger = logging.getLogger(__name__)

WRITER = "resnet-service"  # in the metadata of our own files

FIRST = "conv1.weight"  # of every ResNet

# Beside the weights: counters of batch norms in averaged models, and of tools that count operations (thop).
COUNTERS = ("n_averaged", "total_ops", "total_params")

# A layer with one of these in its name may be the classifier, also outside of the prefix of the rest.
HEADS = {"fc", "head", "classifier", "linear", "last_linear", "logits", "cls_head"}

# Of Hugging Face's transformers, within a ResNet: a convolution and its batch norm in a block.
TRANSFORMERS = re.compile(
    r"encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<layer>\d+)|shortcut)\.(?P<kind>convolution|normalization)\."
)


def _plain_dict(*factory: object) -> dict[object, object]:
    """Instead of a defaultdict, which `torch.load` lets nobody fill."""
    return {}


def _plain_list(content: Iterable[object] = (), *length: object) -> list[object]:
    """Instead of a deque, likewise."""
    return list(content)


class _Unread:
    """Instead of an object that nothing here reads: it takes what the object is made of and keeps nothing."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _Array(_Unread):
    """Instead of a NumPy array, whose own unpickling trusts its file with memory."""


class _Dtype:
    """Instead of a dtype of NumPy, likewise: its code, f8, and its byte order."""

    def __init__(self, code: str, *copied: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(dtype: _Dtype, raw: object = b"") -> object:
    """A number of NumPy; None for what is none."""
    code = f"{dtype.order}{dtype.code}"
    return np.frombuffer(raw, code)[0] if re.fullmatch(r"[<>=|][iufb][1248]", code) and isinstance(raw, bytes) else None


# What scripts keep beside the weights, and what is as harmless as the dicts and numbers that are always allowed: their
# arguments, paths, dates, collections, numbers and arrays of NumPy, states of random generators.
HARMLESS: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    (_plain_dict, "collections.defaultdict"),
    (_plain_list, "collections.deque"),
    *(
        (getattr(pathlib, f"Pure{kind}"), f"{module}.{of}{kind}")
        for module in ("pathlib", "pathlib._local")
        for of in ("", "Pure")
        for kind in ("PosixPath", "WindowsPath")
    ),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    *((_Unread, f"datetime.{kind}") for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *((_Unread, name) for name in ("decimal.Decimal", "fractions.Fraction", "uuid.UUID")),
    *((_Unread, f"numpy.random._pickle.__{kind}_ctor") for kind in ("generator", "bit_generator", "randomstate")),
    *((_Unread, f"numpy.random.{kind}") for kind in ("_pcg64.PCG64", "_mt19937.MT19937", "_philox.Philox")),
    (_Unread, "numpy.random.bit_generator.__pyx_unpickle_SeedSequence"),
    (_Unread, "numpy.random.bit_generator.SeedSequence"),
    dict,
    frozenset,
    list,
    set,
    *((_Unread, f"builtins.{kind}") for kind in ("range", "slice")),
]

MEAN_IMAGE = "mean_image"  # beside the parameters: float32 (3, crop, crop) in 0 to 255
BESIDE = (MEAN_IMAGE, "n_averaged")


class Record(BaseModel):
    """What a file says of its weights: in safetensors, JSON in the metadata; in `.pth`, entries beside `state_dict`."""

    model_config = ConfigDict(frozen=True)

    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[Label, ...] | None = None
    accuracy: Accuracy | None = None


class WeightFile(NamedTuple):
    """The content of a file."""

    tensors: dict[str, Tensor]  # under bare parameter names, float32
    mean_image: Tensor | None
    record: Record
    names: tuple[tuple[str, tuple[Label, ...]], ...] = ()  # of the classes, with their places, in any file


def read_weights(path: Path) -> WeightFile:
    """The tensors of a file of safetensors or of `torch.save`, whatever its name.

    The state dict is found by its content, however deep it lies: it has a tensor called `conv1.weight`, perhaps behind
    a prefix (`module.` of DDP, `_orig_mod.` of torch.compile, `model.` of Lightning), which is removed. Of several, the
    averaged weights (`ema` in their key) are taken before the raw ones: they are what torchvision and timm evaluate
    and publish; and the best (`best`) before the last. Names of Hugging Face's transformers become torchvision's. A
    classifier outside of the prefix keeps its name. What was found, and what was left aside, is one line of the log.

    Raises:
        InputError: the file is empty, damaged, would run code, holds something else than weights, or several networks
            of which no name says which to take.
    """
    head = check_kind(path)
    content = _read_safetensors(path) if _is_safetensors(path, head) else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save `net.state_dict()`")
    # Without an architecture, entries of these names are somebody else's, of any meaning.
    fields = Record.model_fields if isinstance(content.get("architecture"), Mapping) else {}
    record = _record({name: content[name] for name in fields if name in content}, path)
    mean_image = content.get(MEAN_IMAGE)
    found = list(_state_dicts(content))
    if not found:
        raise InputError(_without_weights(content, path))
    best = _chosen(found, path)
    weights = {name: one for name, one in best.tensors.items() if name not in BESIDE and not name.endswith(COUNTERS)}
    others = {name: one for name, one in weights.items() if not name.startswith(best.prefix)}
    tensors = {name.removeprefix(best.prefix): one for name, one in weights.items() if name not in others}
    heads = {} if "fc.weight" in tensors else {name: others[name] for name in others if HEADS & set(name.split("."))}
    aside = [f"the weights under {one.place!r}" for one in found if one.where != best.where]
    aside += [name for name in others if name not in heads]
    if best.where or best.prefix or aside:
        logger.info(
            "%s: using the weights%s%s%s",
            path.name,
            f" under {best.where!r}" if best.where else "",
            f", without the prefix {best.prefix!r}" if best.prefix else "",
            f"; left aside: {some(aside)}" if aside else "",
        )
    return WeightFile(
        _as_float32(tensors | heads, path),
        mean_image if isinstance(mean_image, Tensor) else None,
        record,
        tuple(_names(content)),
    )


class _Found(NamedTuple):
    """A state dict in a file: its place, and the prefix of its names."""

    where: str
    prefix: str
    tensors: dict[str, Tensor]

    @property
    def place(self) -> str:
        return f"{self.where}.{self.prefix}".strip(".")

    def shares(self, other: _Found) -> bool:
        """Whether both are the same tensors, saved under two names."""
        return self._addresses() == other._addresses()

    def _addresses(self) -> dict[str, int]:
        ours = {name: one for name, one in self.tensors.items() if name.startswith(self.prefix)}
        return {
            name.removeprefix(self.prefix): one.data_ptr() for name, one in ours.items() if one.layout is torch.strided
        }


def _mappings(content: Mapping[Any, Any], where: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """A mapping and those within it, the arguments of scripts too, with their places."""
    yield where, content
    if depth:
        for name, value in content.items():
            inner = vars(value) if isinstance(value, argparse.Namespace | SimpleNamespace) else value
            if isinstance(inner, Mapping):
                yield from _mappings(inner, f"{where}.{name}".lstrip("."), depth - 1)


def _state_dicts(content: Mapping[Any, Any]) -> Iterator[_Found]:
    for where, mapping in _mappings(content):
        tensors = {_our_name(str(name)): value for name, value in mapping.items() if isinstance(value, Tensor)}
        for name in tensors:
            if name == FIRST or name.endswith(f".{FIRST}"):
                prefix = name.removesuffix(FIRST)
                # the first convolution of a block is called so, too, behind layer1.0. and the like
                if f"{prefix}bn1.weight" in tensors and any(one.startswith(f"{prefix}layer1.") for one in tensors):
                    yield _Found(where, prefix, tensors)


def _our_name(name: str) -> str:
    """torchvision's name of a parameter that is named by Hugging Face's transformers, or has a `shortcut`."""
    name = name.replace("embedder.embedder.convolution.", "conv1.")
    name = name.replace("embedder.embedder.normalization.", "bn1.")
    name = TRANSFORMERS.sub(_of_transformers, name)
    return re.sub(r"(layer\d+\.\d+\.)shortcut\.(?=[01]\.)", r"\1downsample.", name)


def _of_transformers(match: re.Match[str]) -> str:
    convolution = match["kind"] == "convolution"
    if match["layer"] is None:
        layer = f"downsample.{0 if convolution else 1}"
    else:
        layer = f"{'conv' if convolution else 'bn'}{int(match['layer']) + 1}"
    return f"layer{int(match['stage']) + 1}.{match['block']}.{layer}."


def _chosen(found: list[_Found], path: Path) -> _Found:
    """The state dict that is meant, by the names of their places."""
    for sign in ("ema", "best"):
        found = [one for one in found if sign in one.place.lower()] or found
    if not all(one.shares(found[0]) for one in found[1:]):
        places = some(one.place or "no prefix" for one in found)
        raise InputError(
            f"{path} holds several networks, under {places}, and nothing tells which to take: save the state dict of "
            "the one you mean"
        )
    return found[0]


def _without_weights(content: Mapping[Any, Any], path: Path) -> str:
    if any(
        str(name).endswith(FIRST) and isinstance(one, _Array) for _, m in _mappings(content) for name, one in m.items()
    ):
        return f"{path} holds arrays of NumPy, not tensors: save each as `torch.from_numpy(array)`"
    keys = some([str(name) for name in content if name not in Record.model_fields]) if content else "nothing"
    return (
        f"{path} holds no weights of a ResNet: no tensor in it is called conv1.weight, with or without a prefix; "
        f"it holds {keys}. Save `net.state_dict()`, bare or as `state_dict`"
    )


def _names(content: Mapping[Any, Any]) -> Iterator[tuple[str, tuple[Label, ...]]]:
    """The names of classes that a file of others holds, with their places."""
    for where, mapping in _mappings(content):
        for key, value in mapping.items():
            if str(key).lower() in NAME_KEYS and (labels := labels_of(value)):
                yield f"{where}.{key}".lstrip("."), labels


def _is_safetensors(path: Path, head: bytes) -> bool:
    """By its suffix, or by its first bytes."""
    if head.startswith(b"PK"):  # a ZIP archive, as `torch.save` writes them
        return False
    return path.suffix.lower() == ".safetensors" or begins_as_safetensors(head)


def save_safetensors(
    tensors: Mapping[str, Tensor], path: Path, record: Record, mean_image: Tensor | None = None
) -> None:
    """Writes a state dict with its record; `path` is never seen half-written.

    Raises:
        OSError: the file cannot be written.
    """
    # safetensors wants contiguous tensors, which those of a channels-last net are not
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if mean_image is not None:
        content[MEAN_IMAGE] = mean_image
    fields = record.model_dump(mode="json", exclude_none=True)
    # None is a value there: a plain net has no shortcut
    if record.architecture:
        fields["architecture"] = record.architecture.model_dump(mode="json")
    metadata = {"format": "pt", "writer": WRITER} | {name: json.dumps(value) for name, value in fields.items()}
    write_whole(path, save(content, metadata))  # `save_file` would hide why it failed, and write for its owner only


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}): copy or download it again") from error
    for name in {*Record.model_fields, *NAME_KEYS} & metadata.keys():
        try:
            content[name] = json.loads(metadata[name])
        except (json.JSONDecodeError, RecursionError) as error:
            if metadata.get("writer") == WRITER:
                raise InputError(f"{path} has damaged metadata ({error}): export it again from its training") from error
            # else it is somebody else's, of any meaning
    return content


def _read_pickle(path: Path) -> object:
    # an open file, since torch.load looks at the names of files
    with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the file's pickle protocol and kinds of tensors
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes, read as opcodes, raise whatever they happen to mean
            size = path.stat().st_size
            if (file.tell() == size and not zipfile.is_zipfile(path)) or "unexpected EOF" in str(error):
                raise InputError(f"{path} is cut short at {size} bytes: {COPY}") from error
            raise InputError(f"{path} {_fault(error)}") from error


def _fault(error: Exception) -> str:
    """Why `torch.load` failed, and what to do about it."""
    refused = isinstance(error, pickle.UnpicklingError)
    if refused and (forbidden := re.search(r"GLOBAL (\S+)", str(error))):
        return (
            f"is refused: it holds the pickled Python object `{forbidden[1]}`, and unpickling such objects "
            "(a whole module saved by `torch.save(net)` is one) can run any code. If you trust it, load it where "
            "it was made and save only the weights: `torch.save(net.state_dict(), ...)`, or as .safetensors"
        )
    if refused and (unread := re.search(r"WeightsUnpickler error:\s*(.+)", str(error))):
        return (
            f"is damaged, or was saved in a way that is not read safely ({unread[1].rstrip('.')}): {COPY}, or load it "
            "where it was made and save its state dict with `torch.save(net.state_dict(), ...)`"
        )
    return f"is damaged or no file of PyTorch ({type(error).__name__}): {COPY}"


def _record(entries: dict[str, object], path: Path) -> Record:
    try:
        record = Record.model_validate(entries)
    except ValidationError as error:
        first = error.errors()[0]
        what, *where = map(str, first["loc"])
        raise InputError(
            f"{path} records {_a(what)} that is not valid: {'.'.join(where) or 'it'}: {first['msg']}"
        ) from error
    if record.architecture and "variant" not in record.architecture.model_fields_set:  # the default would be a guess
        raise InputError(f"{path} records an architecture that is not valid: it lacks the variant, v1 or v1.5")
    return record


def _a(field: str) -> str:
    return f"{'an' if field[0] == 'a' else 'a'} {field}"


def _as_float32(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in float32 (batch norm's counters as they are)."""
    unusable = [f"{name} ({kind})" for name, tensor in tensors.items() if (kind := _unusual(tensor))]
    if unusable:
        raise InputError(
            f"{path} has tensors that are not plain numbers: {some(unusable)}; save them dense and on the CPU"
        )
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    integers = [f"{name} {tensor.dtype}" for name, tensor in weights.items() if not tensor.is_floating_point()]
    if integers:
        raise InputError(
            f"{path} has weights that are not floating point, perhaps quantised: {some(integers)}; give the "
            "float32, float16 or bfloat16 weights they were made from"
        )
    converted = tensors | {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    broken = [name for name in weights if not _is_finite(converted[name])]
    if broken:
        raise InputError(
            f"{path} has NaN or infinite weights (the training diverged, or the file is damaged): {some(broken)}; "
            "give an earlier checkpoint"
        )
    return converted


def _unusual(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are found in one pass and NaN wins both; `isfinite` of a whole tensor takes six times as long.
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())
