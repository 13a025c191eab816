"""Finds a ResNet's state dict in whatever a weight file holds, by its parameter names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_export.errors import InputError, shortlist

FIRST = "conv1.weight"  # every ResNet has it
MAX_NESTING = 3  # levels of mappings that are searched below the outermost one

# A layer with one of these words in its name may be the classifier, even outside the prefix of the other layers.
HEADS = {"fc", "head", "classifier", "linear", "last_linear", "logits", "cls_head"}

# Names of a convolution or batch norm within a block, in Hugging Face's transformers.
TRANSFORMERS = re.compile(
    r"encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<layer>\d+)|shortcut)\.(?P<kind>convolution|normalization)\."
)


class StateDict(NamedTuple):
    """A ResNet's state dict within the content of a file."""

    keys: str  # the dotted keys that lead to the mapping; empty for the outermost one
    prefix: str  # of the parameter names, up to its last dot; empty without one
    tensors: dict[str, Tensor]  # everything in the mapping, with torchvision's names where we know them

    @property
    def location(self) -> str:
        return f"{self.keys}.{self.prefix}".strip(".")

    def shares_memory(self, other: StateDict) -> bool:
        """Whether both hold the same tensors, saved under two names."""
        return self._addresses() == other._addresses()

    def _addresses(self) -> dict[str, int]:
        return {
            name.removeprefix(self.prefix): tensor.data_ptr()
            for name, tensor in self.tensors.items()
            if name.startswith(self.prefix) and tensor.layout is torch.strided
        }


def mappings(
    content: Mapping[Any, Any], keys: str = "", nesting: int = MAX_NESTING
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """A mapping and those nested in it (namespaces of arguments too), each with the dotted keys that lead to it."""
    yield keys, content
    if nesting:
        for key, value in content.items():
            inner = vars(value) if isinstance(value, argparse.Namespace | SimpleNamespace) else value
            if isinstance(inner, Mapping):
                yield from mappings(inner, f"{keys}.{key}".lstrip("."), nesting - 1)


def find_state_dicts(content: Mapping[Any, Any]) -> Iterator[StateDict]:
    """Every state dict of a ResNet in the content of a file."""
    for keys, mapping in mappings(content):
        tensors = {_torchvision_name(str(name)): value for name, value in mapping.items() if isinstance(value, Tensor)}
        for name in tensors:
            if name == FIRST or name.endswith(f".{FIRST}"):
                prefix = name.removesuffix(FIRST)
                # A block's first convolution is called conv1 too (layer1.0.conv1); no layer1 follows its prefix.
                if f"{prefix}bn1.weight" in tensors and any(other.startswith(f"{prefix}layer1.") for other in tensors):
                    yield StateDict(keys, prefix, tensors)


def choose_state_dict(candidates: Sequence[StateDict], path: Path) -> StateDict:
    """The one to use: averaged weights (`ema` in their location) before raw ones, then the best (`best`).

    Raises:
        InputError: several networks remain, and no name tells which one is meant.
    """
    for word in ("ema", "best"):
        candidates = [each for each in candidates if word in each.location.lower()] or candidates
    if not all(each.shares_memory(candidates[0]) for each in candidates[1:]):
        locations = shortlist(each.location or "no prefix" for each in candidates)
        raise InputError(
            f"{path} holds several networks, under {locations}, and no name tells which one to use: save only the "
            "state dict that you want"
        )
    return candidates[0]


def is_head(name: str) -> bool:
    """Whether a layer or parameter may belong to the classifier, by its dotted name."""
    return not HEADS.isdisjoint(name.split("."))


def _torchvision_name(name: str) -> str:
    """torchvision's name of a parameter that is named as in transformers, or whose projection is called `shortcut`."""
    name = name.replace("embedder.embedder.convolution.", "conv1.")
    name = name.replace("embedder.embedder.normalization.", "bn1.")
    name = TRANSFORMERS.sub(_from_transformers, name)
    return re.sub(r"(layer\d+\.\d+\.)shortcut\.(?=[01]\.)", r"\1downsample.", name)


def _from_transformers(match: re.Match[str]) -> str:
    is_convolution = match["kind"] == "convolution"
    if match["layer"] is None:
        layer = f"downsample.{0 if is_convolution else 1}"
    else:
        layer = f"{'conv' if is_convolution else 'bn'}{int(match['layer']) + 1}"
    return f"layer{int(match['stage']) + 1}.{match['block']}.{layer}."
