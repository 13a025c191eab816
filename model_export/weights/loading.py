"""Loads a network from any weight file: its weights, architecture, labels and preprocessing."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model_export.errors import InputError, shortlist
from model_export.nets.resnet import ResNet
from model_export.nets.serving_graph import ServingGraph
from model_export.weights.defaults import Family, ShortcutOption, shortcut_of, usual_preprocessing
from model_export.weights.description import Description
from model_export.weights.file_kinds import check_path
from model_export.weights.fitting import fill, options_for
from model_export.weights.hub_folder import read_hub_folder
from model_export.weights.labels import LABEL_FILES, imagenet_labels, read_labels
from model_export.weights.reading import WeightFile, read_weights
from model_export.weights.state_dict import is_head
from model_export.weights.torchvision_files import released_by_torchvision
from service.runtime.head import Head
from service.runtime.measured import Accuracy, MultiLabelAccuracy
from service.runtime.model_card import Architecture, Label, Training, Variant, Weights
from service.runtime.model_folder import sha256
from service.runtime.preprocessing import Preprocessing

log = logging.getLogger(__name__)


class _NoLabels(InputError):
    """The classes have no names, or contradictory ones; the message names no remedy."""


class Loaded(NamedTuple):
    """A network with its weights (evaluation mode, float32, on the CPU), and what its model card will say about it."""

    net: ResNet
    weights: Weights
    labels: tuple[Label, ...]  # empty only if `load_file` was told that they are not needed
    preprocessing: Preprocessing
    accuracy: Accuracy | MultiLabelAccuracy | None
    mean_image: Tensor | None = None  # float32 (3, crop, crop) in 0 to 255, with `preprocessing.mean_image`
    training: Training | None = None  # None if the file does not record it
    head: Head = Head()

    def serving_graph(self) -> ServingGraph:
        """The network as it is exported and evaluated: uint8 images in."""
        return ServingGraph(self.net, self.preprocessing, self.mean_image).eval()


def load_file(
    path: Path,
    *,
    depth: int | None = None,
    family: Family | None = None,
    variant: Variant | None = None,
    shortcut: ShortcutOption | None = None,
    labels: Path | None = None,
    labels_needed: bool = True,
) -> Loaded:
    """The network in a weight file of ours, torchvision's or timm's; the file decides the number of classes.

    Whatever is None comes from the file's record (our own training writes one), else from what is known of the files
    that torchvision has released, else from the files that timm or transformers wrote beside it; without any of these
    it is the family "imagenet" and the family's usual shortcut and preprocessing. Labels come from `labels`, else from
    the same record, else from other projects' entries in the file (`class_to_idx`, `classes`, ...), else from
    `labels.txt`, `.json` or `.tsv` beside it. A file of 1000 classes without labels gets ImageNet's, with a warning.

    Args:
        depth: required if the file does not record it.
        variant: required if the file does not record it and the net has bottlenecks.
        labels_needed: whether to refuse weights whose classes have no names, or contradictory ones. Otherwise they have
            no labels, and a warning says why.

    Raises:
        InputError: the file cannot be read safely, does not fit the architecture or contradicts it; or the depth, the
            variant or the labels are unknown.
    """
    check_path(path)
    digest = file_digest(path)
    content = read_weights(path)
    tensors = _with_plain_classifier(content.tensors, path)
    classifier = tensors.get("fc.weight")
    if classifier is None or classifier.ndim != 2 or not len(classifier):
        others = shortlist(_besides_the_layers(tensors)) or "nothing"
        raise InputError(
            f"{path} has no classifier `fc.weight` of shape (classes, features), as ResNets of this project, "
            f"torchvision and timm have; besides the layers it has {others}. Save it with its last layer as `fc`"
        )
    described = (
        None
        if content.record.architecture
        else released_by_torchvision(digest) or read_hub_folder(path, len(classifier))
    )
    recorded = described.architecture if described else content.record.architecture
    if recorded is None:
        if depth is None:
            raise InputError(f"{path} does not record which network it holds: pass `--depth`")
        requested = Architecture(
            depth=depth,
            family=family or "imagenet",
            variant=variant or "v1.5",
            shortcut=shortcut_of(shortcut, family or "imagenet"),
            num_classes=len(classifier),
        )
    else:
        requested = Architecture(
            depth=depth or recorded.depth,
            family=family or recorded.family,
            variant=variant or recorded.variant,
            shortcut=recorded.shortcut if shortcut is None else shortcut_of(shortcut, recorded.family),
            num_classes=len(classifier),
        )
        _check_record(recorded, requested, path)
    net = fill(tensors, requested, path)
    if variant is None and recorded is None and requested.has_bottlenecks:
        raise InputError(
            f"{path} does not record whether it is v1 or v1.5, which place a bottleneck's stride differently: their "
            "shapes are identical, so the wrong one loads and silently gives wrong answers. Files of torchvision, timm "
            "and Hugging Face are v1.5, conversions of the authors' Caffe files v1: pass `--variant v1.5` or "
            "`--variant v1`"
        )
    try:
        found_labels = _find_labels(path, labels, content, requested.num_classes, described)
    except _NoLabels as error:
        if labels_needed:
            raise InputError(f"{error}: pass the right names with `--labels FILE`") from error
        log.warning("%s: so the classes of these weights have no names", error)
        found_labels = ()
    return Loaded(
        net,
        Weights(source=described.source, sha256=digest, license=described.license)
        if described
        else Weights(source=path.name, sha256=digest),
        found_labels,
        content.record.preprocessing
        or (described and described.preprocessing)
        or usual_preprocessing(requested.family),
        content.record.accuracy or (described and described.accuracy),
        content.mean_image,
        content.record.training,
        content.record.head,
    )


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _besides_the_layers(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in tensors if not name.startswith(("conv1.", "bn1.", "layer"))]


def _with_plain_classifier(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Renames the classifier to `fc` if it is the only linear layer after the others: `fc.1`, `head.fc`, `linear`."""
    if "fc.weight" in tensors:
        return tensors
    layers = {name.rpartition(".")[0] for name in _besides_the_layers(tensors)}
    heads = [layer for layer in layers if is_head(layer)]
    if len(heads) != 1 or tensors.get(f"{heads[0]}.weight", torch.empty(0)).ndim != 2:
        return tensors
    log.info("%s: the classifier is %s", path.name, heads[0])
    return {re.sub(rf"^{re.escape(heads[0])}\.(?=\w+$)", "fc.", name): tensor for name, tensor in tensors.items()}


def _check_record(recorded: Architecture, requested: Architecture, path: Path) -> None:
    compared = ["family", "depth", "shortcut", "num_classes"] + ["variant"] * recorded.has_bottlenecks
    differing = [field for field in compared if getattr(recorded, field) != getattr(requested, field)]
    if "num_classes" in differing:
        raise InputError(
            f"{path} contradicts itself: it records {recorded.num_classes} classes and its `fc.weight` has "
            f"{requested.num_classes}: save it again from its training"
        )
    if differing:
        faults = "; ".join(
            f"it records {field} {getattr(recorded, field) or 'none'}, but {getattr(requested, field) or 'none'} was "
            "requested"
            for field in differing
        )
        raise InputError(f"{path} holds a different network: {faults}: pass {options_for(recorded, differing)}")


def _find_labels(
    path: Path, given: Path | None, content: WeightFile, num_classes: int, described: Description | None
) -> tuple[Label, ...]:
    if given is None:
        recorded = described.labels if described else content.record.labels
        if recorded is not None and len(recorded) == num_classes:
            return recorded
        if class_names := _class_names(path, content, num_classes):
            return class_names
    beside = (path.with_name(name) for name in LABEL_FILES)
    file = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if file is None and num_classes == 1000:
        log.warning("%s has 1000 classes and no labels: using ImageNet's", path.name)
        return imagenet_labels()
    if file is None:
        raise _NoLabels(
            f"{path} has {num_classes} classes and no labels, nor is any of {', '.join(LABEL_FILES)} beside it"
        )
    log.info("labels from %s", file)
    labels = read_labels(file)
    if len(labels) != num_classes:
        raise _NoLabels(f"{file} names {len(labels)} classes, but {path} has {num_classes}")
    return labels


def _class_names(path: Path, content: WeightFile, num_classes: int) -> tuple[Label, ...] | None:
    """The class names that another project's file holds, if their number is right."""
    fitting = [(keys, labels) for keys, labels in content.class_names if len(labels) == num_classes]
    if not fitting:
        return None
    keys, labels = fitting[0]
    for other, rival in fitting[1:]:
        if [label.name for label in rival] != [label.name for label in labels]:
            raise _NoLabels(f"{path} names its classes in {keys} and, differently, in {other}")
    log.info("%s: labels from its %s", path.name, keys)
    return labels
