"""Trained weights: the published ImageNet files, and any file of the same parameter names.

Whatever the door, nothing in a file is executed (`weights_only`), every name and shape must fit, and the variant (v1
or v1.5), which shapes cannot tell, is never guessed.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model_export.disk import move_into_place
from model_export.download import download
from model_export.errors import InputError
from model_export.labels import LABEL_FILES, imagenet_labels, read_labels
from model_export.resnet import IMAGENET_BLOCKS, ResNet, build
from service.card import Accuracy, Architecture, Label, Preprocessing, Shortcut, Variant, Weights, sha256

logger = logging.getLogger(__name__)

BASE_URL = "https://download.pytorch.org/models/"
BASE_URL_VARIABLE = "MODEL_EXPORT_WEIGHTS_URL"

# Mean and standard deviation of CIFAR-10's training pixels. Nets of that family see the whole 32x32 image.
CIFAR_PREPROCESSING = Preprocessing(resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

Family = Literal["imagenet", "cifar"]
ImagenetVersion = Literal["v1", "v2"]


class PublishedFile(NamedTuple):
    """A file of torchvision's: v1.5, option B, 1000 classes. Accuracies are single-crop, as fractions."""

    file: str
    sha256: str
    top1: float
    top5: float
    preprocessing: Preprocessing = Preprocessing()
    license: str = "BSD-3-Clause"


_V2_PREPROCESSING = Preprocessing(resize=232)

IMAGENET_WEIGHTS: dict[tuple[int, ImagenetVersion], PublishedFile] = {
    (18, "v1"): PublishedFile(
        "resnet18-f37072fd.pth", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 0.69758, 0.89078
    ),
    (34, "v1"): PublishedFile(
        "resnet34-b627a593.pth", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 0.73314, 0.91420
    ),
    (50, "v1"): PublishedFile(
        "resnet50-0676ba61.pth", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 0.76130, 0.92862
    ),
    (101, "v1"): PublishedFile(
        "resnet101-63fe2227.pth", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 0.77374, 0.93546
    ),
    (152, "v1"): PublishedFile(
        "resnet152-394f9c45.pth", "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58", 0.78312, 0.94046
    ),
    # Of the V2 files torchvision states only the first 8 digits, in the name. 32 bits find a damaged file, not a forged
    # one; against that stand TLS and `weights_only`.
    (50, "v2"): PublishedFile("resnet50-11ad3fa6.pth", "11ad3fa6", 0.80858, 0.95434, _V2_PREPROCESSING),
    (101, "v2"): PublishedFile("resnet101-cd907fc2.pth", "cd907fc2", 0.81886, 0.95780, _V2_PREPROCESSING),
    (152, "v2"): PublishedFile("resnet152-f82ba261.pth", "f82ba261", 0.82284, 0.96002, _V2_PREPROCESSING),
}


class Loaded(NamedTuple):
    """A network with its weights, in evaluation mode, float32, on the CPU; and what its model card will say of it."""

    net: ResNet
    weights: Weights
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    accuracy: Accuracy | None


class _Checkpoint(NamedTuple):
    """The content of a file: tensors under bare parameter names, and the architecture where the file records it."""

    tensors: dict[str, Tensor]
    architecture: Architecture | None


def imagenet(depth: int, version: ImagenetVersion = "v1", *, base_url: str | None = None) -> Loaded:
    """The network with torchvision's published weights, from the torch hub cache or downloaded into it.

    Args:
        base_url: a mirror; by default `$MODEL_EXPORT_WEIGHTS_URL`, or else the publisher's address.

    Raises:
        Unavailable: the file is not in the cache and cannot be downloaded.
        InputError: there is no such file, what was downloaded is not it, or it cannot be stored.
    """
    published = IMAGENET_WEIGHTS.get((depth, version))
    if published is None:
        depths = ", ".join(str(d) for d, v in IMAGENET_WEIGHTS if v == version)
        raise InputError(f"there are no published {version.upper()} weights of depth {depth}: choose from {depths}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    digest = _cached_digest(path, published.sha256)
    if digest is None:
        base_url = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
        digest = download(
            f"{base_url.rstrip('/')}/{published.file}",
            path,
            published.sha256,
            by_hand="give one with `--weights FILE`",
            other_disk="set TORCH_HOME to a folder on another disk",
        )
    net = _fill(_read_checkpoint(path), Architecture(depth=depth), path)
    return Loaded(
        net,
        Weights(source=f"torchvision, {BASE_URL}{published.file}", sha256=digest, license=published.license),
        imagenet_labels(),
        published.preprocessing,
        Accuracy(
            dataset="ImageNet-1k validation (published by torchvision)",
            images=50000,
            top1=published.top1,
            top5=published.top5,
        ),
    )


def load_file(
    path: Path,
    *,
    depth: int,
    family: Family = "imagenet",
    variant: Variant | None = None,
    shortcut: Shortcut | None = "B",
    labels: Path | None = None,
) -> Loaded:
    """The network with the weights of a file: ours, torchvision's or timm's; the number of classes is the file's.

    Labels come from `labels`, or else from `labels.txt`, `.json` or `.tsv` beside the file; 1000 classes without labels
    are taken, with a warning, for ImageNet's. The preprocessing is the family's usual one: no file records it.

    Args:
        variant: may be None where the file records it, or where the net has no bottlenecks.
        shortcut: None for a plain net. (The paper's CIFAR nets have "A".)

    Raises:
        InputError: the file cannot be read safely, does not fit the architecture or contradicts it; the variant or
            the labels are not known.
    """
    digest = _digest(path)
    checkpoint = _read_checkpoint(path)
    classifier = checkpoint.tensors.get("fc.weight")
    if classifier is None or classifier.ndim != 2 or not len(classifier):
        raise InputError(
            f"{path} has no classifier `fc.weight` of shape (classes, features), so it is no ResNet of ours, "
            f"torchvision's or timm's; its names: {_some(checkpoint.tensors)}"
        )
    architecture = Architecture(
        depth=depth,
        family=family,
        variant=variant or (checkpoint.architecture.variant if checkpoint.architecture else "v1.5"),
        shortcut=shortcut,
        num_classes=len(classifier),
    )
    if checkpoint.architecture:
        _check_record(checkpoint.architecture, architecture, path)
    net = _fill(checkpoint, architecture, path)
    if variant is None and checkpoint.architecture is None and architecture.has_bottlenecks:
        raise InputError(
            f"{path} does not record whether it is v1 or v1.5, which differ in where a bottleneck has its stride: the "
            "shapes are identical, so a wrong choice loads and silently gives wrong answers. torchvision's and "
            "timm's files are v1.5, conversions of the authors' Caffe files v1: pass `--variant v1.5` or `--variant v1`"
        )
    return Loaded(
        net,
        Weights(source=path.name, sha256=digest),
        _find_labels(path, labels, architecture.num_classes),
        CIFAR_PREPROCESSING if family == "cifar" else Preprocessing(),
        accuracy=None,
    )


def save_safetensors(net: ResNet, path: Path) -> None:
    """Writes the state dict with its architecture recorded; `path` is never seen half-written.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # safetensors wants contiguous tensors, which those of a channels-last net are not
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    metadata = {"format": "pt", "architecture": net.architecture.model_dump_json()}
    try:
        save_file(tensors, temporary, metadata=metadata)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_checkpoint(path: Path) -> _Checkpoint:
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
    architecture = _recorded_architecture(content.get("architecture"), path)
    entries: Mapping[Any, Any] = {name: value for name, value in content.items() if name != "architecture"}
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(entries.get(key), Mapping):
            logger.info("%s: using the weights under %r", path.name, key)
            entries = entries[key]
            break
    others = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    if others or not entries:
        found = f"entries that are no tensors: {_some(others)}" if others else "nothing"
        raise InputError(f"{path} is no state dict, it holds {found}: save `net.state_dict()`, bare or as `state_dict`")
    tensors = {str(name): value for name, value in entries.items() if name != "n_averaged"}  # AveragedModel's counter
    return _Checkpoint(_as_float32(_without_prefixes(tensors), path), architecture)


def _cached_digest(path: Path, expected: str) -> str | None:
    """The digest of a cached file; None where there is none or it is damaged, and a download has to replace it."""
    if not path.exists():
        return None
    found = _digest(path)
    if found.startswith(expected):
        return found
    logger.warning("%s is damaged (its SHA-256 should be %s, found %s): downloading it again", path, expected, found)
    return None


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _find_labels(path: Path, given: Path | None, num_classes: int) -> tuple[Label, ...]:
    beside = (path.with_name(name) for name in LABEL_FILES)
    file = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if file is None and num_classes == 1000:
        logger.warning("%s has 1000 classes and comes without labels: taking them for ImageNet's", path.name)
        return imagenet_labels()
    if file is None:
        raise InputError(
            f"{path} has {num_classes} classes and nothing names them: pass `--labels FILE`, or put one of "
            f"{', '.join(LABEL_FILES)} beside it"
        )
    logger.info("labels from %s", file)
    labels = read_labels(file)
    if len(labels) != num_classes:
        raise InputError(
            f"{file} names {len(labels)} classes, {path} has {num_classes}: pass the right file with `--labels FILE`"
        )
    return labels


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}): copy or download it again") from error
    if "architecture" in metadata:
        content["architecture"] = metadata["architecture"]
    return content


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


def _recorded_architecture(record: object, path: Path) -> Architecture | None:
    """From a dict (`.pth`) or its JSON (safetensors metadata, which holds only strings)."""
    if record is None:
        return None
    try:
        if isinstance(record, str):
            architecture = Architecture.model_validate_json(record)
        else:
            architecture = Architecture.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise InputError(f"{path} records an architecture that is not valid: {where}: {first['msg']}") from error
    if "variant" not in architecture.model_fields_set:  # the card's default would be a guess
        raise InputError(f"{path} records an architecture that is not valid: it lacks the variant, v1 or v1.5")
    return architecture


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
            f"{path} has weights that are not floating point, perhaps quantised: {_some(integers)}; give the "
            "float32, float16 or bfloat16 weights they were made from"
        )
    converted = tensors | {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    broken = [name for name in weights if not _is_finite(converted[name])]
    if broken:
        raise InputError(
            f"{path} has NaN or infinite weights (the training diverged, or the file is damaged): {_some(broken)}; "
            "give an earlier checkpoint"
        )
    return converted


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are found in one pass and NaN wins both; `isfinite` of a whole tensor takes six times as long.
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def _check_record(recorded: Architecture, asked: Architecture, path: Path) -> None:
    compared = ["family", "depth", "shortcut", "num_classes"] + ["variant"] * recorded.has_bottlenecks
    differing = [field for field in compared if getattr(recorded, field) != getattr(asked, field)]
    if "num_classes" in differing:
        raise InputError(
            f"{path} contradicts itself: it records {recorded.num_classes} classes and its `fc.weight` has "
            f"{asked.num_classes}"
        )
    if differing:
        faults = "; ".join(
            f"it records {field} {getattr(recorded, field) or 'none'}, asked for was {getattr(asked, field) or 'none'}"
            for field in differing
        )
        raise InputError(f"{path} is another network: {faults}: pass {_options(recorded, differing)}")


def _fill(checkpoint: _Checkpoint, architecture: Architecture, path: Path) -> ResNet:
    """Builds the network and copies the tensors into it.

    Raises:
        InputError: there is no such architecture, or not all names and shapes are equal.
    """
    try:
        with torch.device("meta"):
            net = build(architecture)
    except ValueError as error:
        raise InputError(str(error)) from error
    tensors = checkpoint.tensors
    state = net.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which inference does not use.
    counters = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}
    misfits = {
        "missing": [name for name in state if name not in tensors],
        "unexpected": [name for name in tensors if name not in state],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted.shape)}"
            for name, wanted in state.items()
            if name in tensors and tensors[name].shape != wanted.shape
        ],
    }
    if any(misfits.values()):
        faults = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in misfits.items() if names)
        guess = _looks_like(checkpoint.tensors, architecture)
        raise InputError(f"{path} does not fit {architecture.name}: {guess}{faults}")
    net.to_empty(device="cpu")
    net.load_state_dict(tensors)
    return net.eval()


def _looks_like(tensors: Mapping[str, Tensor], asked: Architecture) -> str:
    """What the names tell of the architecture a file was made for, with the options to pass; empty if nothing new."""
    counts = [len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    blocks = tuple(count for count in counts if count)
    bottlenecks = "layer1.0.conv3.weight" in tensors
    family: Family = "cifar" if len(blocks) == 3 else "imagenet"
    if family == "cifar":
        depths = [] if bottlenecks or len(set(blocks)) > 1 else [6 * blocks[0] + 2]
    else:
        depths = [d for d, count in IMAGENET_BLOCKS.items() if count == blocks and bottlenecks == (d >= 50)]
    if not depths:
        return ""

    projections = sum(name.endswith("downsample.0.weight") for name in tensors)
    shortcut: Shortcut | None = "C" if projections == sum(blocks) else "B" if projections else "A"
    if shortcut == "A" and asked.shortcut is None:
        shortcut = None  # neither has parameters: shapes cannot tell them apart
    found = asked.model_copy(update={"family": family, "depth": depths[0], "shortcut": shortcut})
    differing = [field for field in ("family", "depth", "shortcut") if getattr(found, field) != getattr(asked, field)]
    if not differing:
        return ""
    kind = "bottlenecks" if bottlenecks else "basic blocks"
    return (
        f"it looks like depth {found.depth} of the {family} family, shortcut {shortcut or 'none'} (layer1 to "
        f"layer{len(blocks)} have {', '.join(map(str, blocks))} {kind}): pass {_options(found, differing)}; "
    )


def _options(architecture: Architecture, fields: list[str]) -> str:
    """The command line's options that ask for this architecture."""
    return " ".join(f"`--{field} {getattr(architecture, field) or 'none'}`" for field in fields)


def _some(names: Mapping[str, object] | list[str]) -> str:
    """At most five of them."""
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
