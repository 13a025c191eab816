"""Builds a network and copies a file's tensors into it; names every misfit and the options that would fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model_export.errors import InputError, shortlist
from model_export.nets.resnet import IMAGENET_BLOCKS, ResNet, build
from model_export.weights.defaults import Family
from service.runtime.model_card import Architecture, Shortcut


def fill(tensors: Mapping[str, Tensor], architecture: Architecture, path: Path) -> ResNet:
    """The network with these tensors, in evaluation mode; `path` is only for messages.

    Raises:
        InputError: there is no such architecture, or a name or shape does not fit it.
    """
    try:
        with torch.device("meta"):
            net = build(architecture)
    except ValueError as error:
        raise InputError(str(error)) from error
    state = net.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which inference does not use.
    counters = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    complete = {**counters, **tensors}
    misfits = {
        "missing": [name for name in state if name not in complete],
        "unexpected": [name for name in complete if name not in state],
        "of another shape": [
            f"{name} {tuple(complete[name].shape)} instead of {tuple(expected.shape)}"
            for name, expected in state.items()
            if name in complete and complete[name].shape != expected.shape
        ],
    }
    if any(misfits.values()):
        faults = "; ".join(f"{len(names)} {kind}: {shortlist(names)}" for kind, names in misfits.items() if names)
        raise InputError(f"{path} does not fit {architecture.name}: {_guess(tensors, architecture)}{faults}")
    net.to_empty(device="cpu")
    net.load_state_dict(complete)
    return net.eval()


def options_for(architecture: Architecture, fields: Iterable[str]) -> str:
    """The command line's options that select these fields of an architecture."""
    return " ".join(f"`--{field} {getattr(architecture, field) or 'none'}`" for field in fields)


def _guess(tensors: Mapping[str, Tensor], requested: Architecture) -> str:
    """The architecture that a file seems to hold, with the options to pass; empty if that is the requested one."""
    counts = [len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    blocks = tuple(count for count in counts if count)
    has_bottlenecks = "layer1.0.conv3.weight" in tensors
    family: Family = "cifar" if len(blocks) == 3 else "imagenet"
    if family == "cifar":
        depths = [] if has_bottlenecks or len(set(blocks)) > 1 else [6 * blocks[0] + 2]
    else:
        depths = [d for d, count in IMAGENET_BLOCKS.items() if count == blocks and has_bottlenecks == (d >= 50)]
    if len(blocks) == 4 and tensors["conv1.weight"].shape[2:] == (3, 3):
        return (
            "its first convolution is 3x3, as in ImageNet nets adapted to CIFAR's small images (kuangliu's), which no "
            "family here has; "
        )
    kind = "bottlenecks" if has_bottlenecks else "basic blocks"
    found = f"layer1 to layer{len(blocks)} have {', '.join(map(str, blocks))} {kind}"
    if not depths and len(blocks) == 4:
        return f"{found}, as no ResNet here has (depths {', '.join(map(str, IMAGENET_BLOCKS))}); "
    if not depths:
        return ""

    projections = sum(name.endswith("downsample.0.weight") for name in tensors)
    shortcut: Shortcut | None = "C" if projections == sum(blocks) else "B" if projections else "A"
    if shortcut == "A" and requested.shortcut is None:
        shortcut = None  # neither A nor a plain net has parameters in its shortcuts: shapes cannot tell them apart
    guess = requested.model_copy(update={"family": family, "depth": depths[0], "shortcut": shortcut})
    differing = [f for f in ("family", "depth", "shortcut") if getattr(guess, f) != getattr(requested, f)]
    if not differing:
        return ""
    return (
        f"it looks like depth {guess.depth} of the {family} family, shortcut {shortcut or 'none'} ({found}): pass "
        f"{options_for(guess, differing)}; "
    )
