"""Files of weights: `.safetensors`, and what `torch.save` wrote. Nothing in a file is executed.

Our own files also record what the weights are for (`Record`), so that nothing has to be said again when they are
evaluated, fine-tuned or exported.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model_export.disk import write_whole
from model_export.errors import InputError, some
from service.card import Accuracy, Architecture, Label, Preprocessing

logger = logging.getLogger(__name__)

MEAN_IMAGE = "mean_image"  # beside the parameters: float32 (3, crop, crop) in 0 to 255


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
    """The tensors of a `.safetensors` file or, under any other name, of a file of `torch.save`.

    Of a training checkpoint the averaged weights (`state_dict_ema`, `model_ema`) are taken before the raw ones
    (`state_dict`, `model`): they are what torchvision and timm evaluate and publish. The prefixes `module.` (DDP,
    averaging) and `_orig_mod.` (torch.compile) are removed.

    Raises:
        InputError: the file is empty, damaged, would run code, or holds something else than weights.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: copy or download it again")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save `net.state_dict()`")
    # Without an architecture, entries of these names are somebody else's, of any meaning.
    fields = Record.model_fields if "architecture" in content else {}
    record = _record({name: content[name] for name in fields if name in content}, path)
    mean_image = content.get(MEAN_IMAGE)
    known = {*Record.model_fields, MEAN_IMAGE}
    entries: Mapping[Any, Any] = {name: value for name, value in content.items() if name not in known}
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(entries.get(key), Mapping):
            logger.info("%s: using the weights under %r", path.name, key)
            entries = entries[key]
            break
    others = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    if others or not entries:
        found = f"entries that are no tensors: {some(others)}" if others else "nothing"
        raise InputError(f"{path} is no state dict, it holds {found}: save `net.state_dict()`, bare or as `state_dict`")
    tensors = {str(name): value for name, value in entries.items() if name != "n_averaged"}  # AveragedModel's counter
    return WeightFile(_as_float32(_without_prefixes(tensors), path), mean_image, record)


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
    metadata = {"format": "pt"} | {name: json.dumps(value) for name, value in fields.items()}
    write_whole(path, save(content, metadata))  # `save_file` would hide why it failed, and write for its owner only


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            metadata = file.metadata() or {}
        return content | {name: json.loads(metadata[name]) for name in Record.model_fields if name in metadata}
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}): copy or download it again") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} has metadata that is no JSON ({error}): export it again from its training") from error


def _read_pickle(path: Path) -> object:
    try:
        # torchvision and timm keep a script's arguments beside the weights; a Namespace is as harmless as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


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
