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
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model_export.disk import write_whole
from model_export.errors import InputError, some
from service.card import Accuracy, Architecture, Label, Preprocessing

logger = logging.getLogger(__name__)

WRITER = "resnet-service"  # in the metadata of our own files

FIRST = "conv1.weight"  # of every ResNet

# Beside the weights: counters of batch norms in averaged models, and of tools that count operations (thop).
COUNTERS = ("n_averaged", "total_ops", "total_params")


def _plain_dict(*factory: object) -> dict[object, object]:
    """Instead of a defaultdict, which `torch.load` lets nobody fill."""
    return {}


# What scripts keep beside the weights, and what is as harmless as the dicts and numbers that are always allowed: their
# arguments, paths, defaultdicts, numbers of NumPy.
SCALAR = np.float64(0).__reduce__()[0]  # what makes a number of NumPy
HARMLESS: list[Any] = [
    argparse.Namespace,
    (_plain_dict, "collections.defaultdict"),
    *(
        (getattr(pathlib, f"Pure{kind}"), f"{module}.{of}{kind}")
        for module in ("pathlib", "pathlib._local")
        for of in ("", "Pure")
        for kind in ("PosixPath", "WindowsPath")
    ),
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    dict,
    list,
    set,
]

# Known by their first bytes: what they are, and what to do with them.
FOREIGN = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"\x89HDF", "an HDF5 file of Keras or Caffe", "convert it to PyTorch first"),
    # its version of the format, 3 and later, then the name of what wrote it
    *((bytes((8, ir, 18)), "an ONNX model", "give the PyTorch weights it was made of") for ir in range(3, 20)),
)

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


def read_weights(path: Path) -> WeightFile:
    """The tensors of a file of safetensors or of `torch.save`, whatever its name.

    The state dict is found by its content, however deep it lies: it has a tensor called `conv1.weight`, perhaps behind
    a prefix (`module.` of DDP, `_orig_mod.` of torch.compile, `model.` of Lightning), which is removed. Of several, the
    averaged weights (`ema` in their key) are taken before the raw ones: they are what torchvision and timm evaluate
    and publish. What was found, and what was left aside, is one line of the log.

    Raises:
        InputError: the file is empty, damaged, would run code, or holds something else than weights.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: copy or download it again")
    with path.open("rb") as file:
        head = file.read(512)
    _check_kind(path, head)
    content = _read_safetensors(path) if _is_safetensors(path, head) else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save `net.state_dict()`")
    # Without an architecture, entries of these names are somebody else's, of any meaning.
    fields = Record.model_fields if isinstance(content.get("architecture"), Mapping) else {}
    record = _record({name: content[name] for name in fields if name in content}, path)
    mean_image = content.get(MEAN_IMAGE)
    found = sorted(_state_dicts(content), key=lambda one: "ema" not in one.where)  # stable: the first of each kind
    if not found:
        keys = some([str(name) for name in content if name not in Record.model_fields]) if content else "nothing"
        raise InputError(
            f"{path} holds no weights of a ResNet: no tensor in it is called conv1.weight, with or without a prefix; "
            f"it holds {keys}. Save `net.state_dict()`, bare or as `state_dict`"
        )
    best = found[0]
    rivals = [one.prefix for one in found if one.where == best.where]
    if len(rivals) > 1:
        raise InputError(
            f"{path} holds several networks, with the prefixes {some(rivals)}: save the state dict of the one you mean"
        )
    tensors = {
        name.removeprefix(best.prefix): value
        for name, value in best.tensors.items()
        if name.startswith(best.prefix) and name not in BESIDE and not name.endswith(COUNTERS)
    }
    aside = [name for name in best.tensors if not name.startswith(best.prefix) and name not in BESIDE]
    if best.where or best.prefix or aside:
        logger.info(
            "%s: using the weights%s%s%s",
            path.name,
            f" under {best.where!r}" if best.where else "",
            f", without the prefix {best.prefix!r}" if best.prefix else "",
            f"; left aside: {some(aside)}" if aside else "",
        )
    return WeightFile(_as_float32(tensors, path), mean_image if isinstance(mean_image, Tensor) else None, record)


class _Found(NamedTuple):
    """A state dict in a file: its place, and the prefix of its names."""

    where: str
    prefix: str
    tensors: dict[str, Tensor]


def _state_dicts(content: Mapping[Any, Any], where: str = "", depth: int = 3) -> Iterator[_Found]:
    """Those in a mapping and in the mappings within it."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name in tensors:
        if name == FIRST or name.endswith(f".{FIRST}"):
            prefix = name.removesuffix(FIRST)
            # the first convolution of a block is called so, too, behind layer1.0. and the like
            if f"{prefix}bn1.weight" in tensors and any(one.startswith(f"{prefix}layer1.") for one in tensors):
                yield _Found(where, prefix, tensors)
    if depth:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from _state_dicts(value, f"{where}.{name}" if where else str(name), depth - 1)


def _check_kind(path: Path, head: bytes) -> None:
    """Raises InputError for a file that is known and is no weights, with what to do about it."""
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path} is a page of the web, not a file of weights: download it by its direct address")
    for signature, kind, remedy in FOREIGN:
        if head.startswith(signature):
            raise InputError(f"{path} is {kind}, not a file of weights: {remedy}")
    if head[257:262] == b"ustar" or head.startswith(b"sys_info"):
        raise InputError(
            f"{path} is in PyTorch's first format, a tar archive, which is not read safely: load it with "
            "`torch.load(path, weights_only=False)` where you trust it, and save its state dict anew"
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.partition("/")[2].startswith("code/") for name in archive.namelist()):
                raise InputError(
                    f"{path} is a TorchScript program, not a file of weights: save its weights with "
                    "`torch.save(torch.jit.load(path).state_dict(), ...)`"
                )


def _is_safetensors(path: Path, head: bytes) -> bool:
    """By its suffix, or by its first bytes: the length of a JSON object, 8 bytes, and its brace."""
    if head.startswith(b"PK"):  # a ZIP archive, as `torch.save` writes them
        return False
    if path.suffix.lower() == ".safetensors":
        return True
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


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
    try:
        ours = {name: json.loads(metadata[name]) for name in Record.model_fields if name in metadata}
    except json.JSONDecodeError as error:
        if metadata.get("writer") == WRITER:
            raise InputError(f"{path} has damaged metadata ({error}): export it again from its training") from error
        return content  # somebody else's, of any meaning
    return content | ours


def _read_pickle(path: Path) -> object:
    try:
        # an open file, since torch.load looks at the names of files
        with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes, read as opcodes, raise whatever they happen to mean
        if isinstance(error, pickle.UnpicklingError) and (forbidden := re.search(r"GLOBAL (\S+)", str(error))):
            raise InputError(
                f"{path} is refused: it holds the pickled Python object `{forbidden[1]}`, and unpickling such objects "
                "(a whole module saved by `torch.save(net)` is one) can run any code. If you trust it, load it where "
                "it was made and save only the weights: `torch.save(net.state_dict(), ...)`, or as .safetensors"
            ) from error
        fault = str(error).partition("\n")[0] if isinstance(error, RuntimeError) else type(error).__name__
        raise InputError(
            f"{path} is damaged, cut short or no PyTorch file ({fault}): copy or download it again"
        ) from error


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


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are found in one pass and NaN wins both; `isfinite` of a whole tensor takes six times as long.
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())
