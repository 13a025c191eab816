"""Trained weights: the published ImageNet files, and any file of the same parameter names.

Whatever the door, nothing in a file is executed (`weights_only`), every name and shape must fit, and the variant (v1
or v1.5), which shapes cannot tell, is never guessed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model_export.download import download, in_home
from model_export.errors import InputError, some
from model_export.file_kinds import check_path
from model_export.labels import LABEL_FILES, imagenet_labels, read_labels
from model_export.onnx_export import ServingGraph
from model_export.resnet import IMAGENET_BLOCKS, ResNet, build
from model_export.weight_files import HEADS, WeightFile, read_weights
from service.card import Accuracy, Architecture, Label, Preprocessing, Shortcut, Variant, Weights, sha256

logger = logging.getLogger(__name__)

BASE_URL = "https://download.pytorch.org/models/"
BASE_URL_VARIABLE = "MODEL_EXPORT_WEIGHTS_URL"

# Mean and standard deviation of CIFAR-10's training pixels. Nets of that family see the whole 32x32 image.
CIFAR_PREPROCESSING = Preprocessing(resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

Family = Literal["imagenet", "cifar"]
ShortcutOption = Literal["A", "B", "C", "none"]
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
    mean_image: Tensor | None = None  # float32 (3, crop, crop) in 0 to 255, with `preprocessing.mean_image`

    def serving_graph(self) -> ServingGraph:
        """The network as it is exported and evaluated: uint8 images in."""
        return ServingGraph(self.net, self.preprocessing, self.mean_image).eval()


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
    path = in_home(torch.hub.get_dir()) / "checkpoints" / published.file
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
    net = _fill(read_weights(path), Architecture(depth=depth), path)
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
    depth: int | None = None,
    family: Family | None = None,
    variant: Variant | None = None,
    shortcut: ShortcutOption | None = None,
    labels: Path | None = None,
) -> Loaded:
    """The network with the weights of a file: ours, torchvision's or timm's; the number of classes is the file's.

    What is None is taken from the file where it records it (those of our own training do), and otherwise is: the family
    "imagenet", the family's usual shortcut and preprocessing. Labels come from `labels`, or else the file's record, the
    names that others keep in theirs (`class_to_idx`, `classes`, ...), or `labels.txt`, `.json` or `.tsv` beside it;
    1000 classes without labels are taken, with a warning, for ImageNet's.

    Args:
        depth: must be given where the file does not record it.
        variant: must be given where the file does not record it and the net has bottlenecks.

    Raises:
        InputError: the file cannot be read safely, does not fit the architecture or contradicts it; the depth, the
            variant or the labels are not known.
    """
    check_path(path)
    digest = _digest(path)
    content = read_weights(path)
    content = content._replace(tensors=_with_plain_classifier(content.tensors, path))
    classifier = content.tensors.get("fc.weight")
    if classifier is None or classifier.ndim != 2 or not len(classifier):
        last = _beside_the_layers(content.tensors)
        raise InputError(
            f"{path} has no classifier `fc.weight` of shape (classes, features), so it is no ResNet of ours, "
            f"torchvision's or timm's; beside the layers it has {some(last) if last else 'nothing'}"
        )
    recorded = content.record.architecture
    if recorded is None:
        if depth is None:
            raise InputError(f"{path} does not record which network it is: say it with `--depth`")
        asked = Architecture(
            depth=depth,
            family=family or "imagenet",
            variant=variant or "v1.5",
            shortcut=shortcut_of(shortcut, family or "imagenet"),
            num_classes=len(classifier),
        )
    else:
        asked = Architecture(
            depth=depth or recorded.depth,
            family=family or recorded.family,
            variant=variant or recorded.variant,
            shortcut=recorded.shortcut if shortcut is None else shortcut_of(shortcut, recorded.family),
            num_classes=len(classifier),
        )
        _check_record(recorded, asked, path)
    net = _fill(content, asked, path)
    if variant is None and recorded is None and asked.has_bottlenecks:
        raise InputError(
            f"{path} does not record whether it is v1 or v1.5, which differ in where a bottleneck has its stride: the "
            "shapes are identical, so a wrong choice loads and silently gives wrong answers. torchvision's, timm's and "
            "Hugging Face's files are v1.5, conversions of the authors' Caffe files v1: pass `--variant v1.5` or "
            "`--variant v1`"
        )
    return Loaded(
        net,
        Weights(source=path.name, sha256=digest),
        _find_labels(path, labels, content, asked.num_classes),
        content.record.preprocessing or usual_preprocessing(asked.family),
        content.record.accuracy,
        content.mean_image,
    )


def _beside_the_layers(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in tensors if not name.startswith(("conv1.", "bn1.", "layer"))]


def _with_plain_classifier(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The classifier by its plain name where it is the only layer after the others: `fc.1`, `head.fc`, `linear`."""
    if "fc.weight" in tensors:
        return tensors
    stems = {name.rpartition(".")[0] for name in _beside_the_layers(tensors)}
    heads = [stem for stem in stems if HEADS & set(stem.split("."))]
    if len(heads) != 1 or tensors.get(f"{heads[0]}.weight", torch.empty(0)).ndim != 2:
        return tensors
    logger.info("%s: the classifier is %s", path.name, heads[0])
    return {re.sub(rf"^{re.escape(heads[0])}\.(?=\w+$)", "fc.", name): tensor for name, tensor in tensors.items()}


def shortcut_of(option: ShortcutOption | None, family: Family) -> Shortcut | None:
    """What an option means: "none" is a plain net; None is what the paper uses, A for the CIFAR nets and else B."""
    if option is None:
        return "A" if family == "cifar" else "B"
    return None if option == "none" else option


def usual_preprocessing(family: Family) -> Preprocessing:
    """What nets of a family are commonly trained with."""
    return CIFAR_PREPROCESSING if family == "cifar" else Preprocessing()


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
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _find_labels(path: Path, given: Path | None, content: WeightFile, num_classes: int) -> tuple[Label, ...]:
    recorded = content.record.labels
    if given is None and recorded is not None and len(recorded) == num_classes:
        return recorded
    if given is None and (own := _own_names(path, content, num_classes)):
        return own
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


def _own_names(path: Path, content: WeightFile, num_classes: int) -> tuple[Label, ...] | None:
    """The names that a file of others keeps beside its weights, where they are as many as the classes."""
    fitting = [(place, labels) for place, labels in content.names if len(labels) == num_classes]
    if not fitting:
        return None
    place, labels = fitting[0]
    for other, rival in fitting[1:]:
        if [label.name for label in rival] != [label.name for label in labels]:
            raise InputError(
                f"{path} names its classes in {place} and, differently, in {other}: pass the right ones with "
                "`--labels FILE`"
            )
    logger.info("%s: labels from its %s", path.name, place)
    return labels


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


def _fill(checkpoint: WeightFile, architecture: Architecture, path: Path) -> ResNet:
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
        faults = "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in misfits.items() if names)
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
    if len(blocks) == 4 and tensors["conv1.weight"].shape[2:] == (3, 3):
        return (
            "its first convolution is 3x3, as in ImageNet nets that were changed for CIFAR's small images "
            "(kuangliu's), and no family here has such a net: "
        )
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
