"""Reads the tensors of a weight file, whoever wrote it. Nothing in the file is executed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_export.errors import InputError, shortlist
from model_export.weights.file_kinds import begins_as_safetensors, check_kind
from model_export.weights.label_formats import NAME_KEYS
from model_export.weights.labels import labels_in
from model_export.weights.other_networks import refuse_other_networks
from model_export.weights.record import MEAN_IMAGE, Record, record_in
from model_export.weights.safetensors_file import read_safetensors
from model_export.weights.state_dict import FIRST, choose_state_dict, find_state_dicts, is_head, mappings
from model_export.weights.unpickling import DiscardedArray, read_pickle
from service.runtime.model_card import Label

log = logging.getLogger(__name__)

# Counters beside the weights: of averaged models, and of tools that count operations (thop).
COUNTERS = ("n_averaged", "total_ops", "total_params")


class WeightFile(NamedTuple):
    """The content of a file."""

    tensors: dict[str, Tensor]  # float32 (counters of batch norms: int64), by parameter name without prefix
    mean_image: Tensor | None  # float32 (3, crop, crop) in 0 to 255
    record: Record
    class_names: tuple[tuple[str, tuple[Label, ...]], ...] = ()  # every list in the file, with its dotted keys


def read_weights(path: Path) -> WeightFile:
    """The tensors of a file of safetensors or of `torch.save`; its content decides which, not its name.

    The state dict may be nested, up to three levels deep. It holds `conv1.weight`, perhaps with a prefix (`module.` of
    DDP, `_orig_mod.` of torch.compile, `model.` of Lightning), which is removed. Among several, averaged weights (`ema`
    in their keys) come before raw ones, because torchvision and timm evaluate and release the average; then the best
    (`best`) before the last. Names of Hugging Face's transformers become torchvision's. A classifier outside the prefix
    keeps its name. One log line says what was used and what was left aside.

    Raises:
        InputError: the file is empty, damaged, would run code, holds no weights or those of another kind of network,
            or holds several networks and no name tells which one to use.
    """
    head = check_kind(path)
    content = read_safetensors(path) if _is_safetensors(path, head) else read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save `net.state_dict()`")
    record = record_in(content, path)
    mean_image = content.get(MEAN_IMAGE)
    candidates = list(find_state_dicts(content))
    if not candidates:
        for _, mapping in mappings(content):
            named = {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}
            refuse_other_networks(named, path)
        raise InputError(_without_weights(content, path))
    chosen = choose_state_dict(candidates, path)
    weights = {name: tensor for name, tensor in chosen.tensors.items() if not _is_beside_the_weights(name)}
    tensors = {
        name.removeprefix(chosen.prefix): tensor for name, tensor in weights.items() if name.startswith(chosen.prefix)
    }
    refuse_other_networks(tensors, path)
    outside = {name: tensor for name, tensor in weights.items() if not name.startswith(chosen.prefix)}
    heads = {} if "fc.weight" in tensors else {name: tensor for name, tensor in outside.items() if is_head(name)}
    aside = [f"the weights under {other.location!r}" for other in candidates if other.keys != chosen.keys]
    aside += [name for name in outside if name not in heads]
    if chosen.keys or chosen.prefix or aside:
        log.info(
            "%s: using the weights%s%s%s",
            path.name,
            f" under {chosen.keys!r}" if chosen.keys else "",
            f", without the prefix {chosen.prefix!r}" if chosen.prefix else "",
            f"; left aside: {shortlist(aside)}" if aside else "",
        )
    return WeightFile(
        _as_float32(tensors | heads, path),
        mean_image if isinstance(mean_image, Tensor) else None,
        record,
        tuple(_class_names(content)),
    )


def _is_safetensors(path: Path, head: bytes) -> bool:
    """By its suffix, or by its first bytes."""
    if head.startswith(b"PK"):  # a ZIP archive, as `torch.save` writes them
        return False
    return path.suffix.lower() == ".safetensors" or begins_as_safetensors(head)


def _is_beside_the_weights(name: str) -> bool:
    return name == MEAN_IMAGE or name.endswith(COUNTERS)


def _without_weights(content: Mapping[Any, Any], path: Path) -> str:
    if any(
        str(name).endswith(FIRST) and isinstance(value, DiscardedArray)
        for _, mapping in mappings(content)
        for name, value in mapping.items()
    ):
        return f"{path} holds NumPy arrays, not tensors: save each as `torch.from_numpy(array)`"
    keys = shortlist([str(name) for name in content if name not in Record.model_fields]) if content else "nothing"
    return (
        f"{path} holds no weights of a ResNet: it has no tensor called conv1.weight, with or without a prefix; it "
        f"holds {keys}. If it belongs to a ResNet, save `net.state_dict()`, either alone or under the key "
        "`state_dict`; other networks are not supported"
    )


def _class_names(content: Mapping[Any, Any]) -> Iterator[tuple[str, tuple[Label, ...]]]:
    """Lists of class names under the keys that other projects use, with their dotted keys."""
    for keys, mapping in mappings(content):
        for key, value in mapping.items():
            if str(key).lower() in NAME_KEYS and (labels := labels_in(value)):
                yield f"{keys}.{key}".lstrip("."), labels


def _as_float32(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in float32; batch norm's counters keep their dtype."""
    unusable = [f"{name} ({kind})" for name, tensor in tensors.items() if (kind := _unusual_kind(tensor))]
    if unusable:
        raise InputError(
            f"{path} has tensors that are not plain numbers: {shortlist(unusable)}; save them dense and on the CPU"
        )
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    integers = [f"{name} {tensor.dtype}" for name, tensor in weights.items() if not tensor.is_floating_point()]
    if integers:
        raise InputError(
            f"{path} has weights that are not floating point, perhaps quantised: {shortlist(integers)}; pass the "
            "float32, float16 or bfloat16 weights that they were made from"
        )
    converted = tensors | {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    broken = [name for name in weights if not _is_finite(converted[name])]
    if broken:
        raise InputError(
            f"{path} has NaN or infinite weights (the training diverged, or the file is damaged): {shortlist(broken)}; "
            "pass an earlier checkpoint"
        )
    return converted


def _unusual_kind(tensor: Tensor) -> str:
    """What makes a tensor's values unreadable; empty for a dense tensor."""
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def _is_finite(tensor: Tensor) -> bool:
    # `aminmax` finds both extremes in one pass and propagates NaN. `isfinite` of a whole tensor takes six times as
    # long.
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())
