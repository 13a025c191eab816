"""torchvision's ImageNet weights, from the torch hub cache or downloaded into it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from model_export.errors import InputError
from model_export.paths import cache_folder
from model_export.weights.download import download
from model_export.weights.fitting import fill
from model_export.weights.labels import imagenet_labels
from model_export.weights.loading import Loaded, file_digest
from model_export.weights.reading import read_weights
from service.runtime.measured import Accuracy
from service.runtime.model_card import Architecture, Weights
from service.runtime.preprocessing import Preprocessing

log = logging.getLogger(__name__)

BASE_URL = "https://download.pytorch.org/models/"
BASE_URL_VARIABLE = "MODEL_EXPORT_WEIGHTS_URL"

ImagenetVersion = Literal["v1", "v2"]


# https://github.com/pytorch/vision#pre-trained-model-license
LICENSE = (
    "torchvision's code is BSD-3-Clause; its pre-trained models may have their own licenses or terms and conditions "
    "derived from the dataset used for training (ImageNet)"
)


class TorchvisionFile(NamedTuple):
    """A file released by torchvision: v1.5, option B, 1000 classes. Accuracies are single-crop, as fractions."""

    file: str
    sha256: str
    top1: float
    top5: float
    preprocessing: Preprocessing = Preprocessing()


_V2_PREPROCESSING = Preprocessing(resize=232)

IMAGENET_WEIGHTS: dict[tuple[int, ImagenetVersion], TorchvisionFile] = {
    (18, "v1"): TorchvisionFile(
        "resnet18-f37072fd.pth", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 0.69758, 0.89078
    ),
    (34, "v1"): TorchvisionFile(
        "resnet34-b627a593.pth", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 0.73314, 0.91420
    ),
    (50, "v1"): TorchvisionFile(
        "resnet50-0676ba61.pth", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 0.76130, 0.92862
    ),
    (101, "v1"): TorchvisionFile(
        "resnet101-63fe2227.pth", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 0.77374, 0.93546
    ),
    (152, "v1"): TorchvisionFile(
        "resnet152-394f9c45.pth", "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58", 0.78312, 0.94046
    ),
    # For the V2 files torchvision states only the first 8 digits, in the name. 32 bits detect a damaged file but not a
    # forged one; TLS and `weights_only` protect against that.
    (50, "v2"): TorchvisionFile("resnet50-11ad3fa6.pth", "11ad3fa6", 0.80858, 0.95434, _V2_PREPROCESSING),
    (101, "v2"): TorchvisionFile("resnet101-cd907fc2.pth", "cd907fc2", 0.81886, 0.95780, _V2_PREPROCESSING),
    (152, "v2"): TorchvisionFile("resnet152-f82ba261.pth", "f82ba261", 0.82284, 0.96002, _V2_PREPROCESSING),
}


def load_imagenet(depth: int, version: ImagenetVersion = "v1", *, base_url: str | None = None) -> Loaded:
    """The network with torchvision's weights.

    Args:
        base_url: a mirror; by default `$MODEL_EXPORT_WEIGHTS_URL`, or else torchvision's own address.

    Raises:
        Unavailable: the file is not in the cache and cannot be downloaded.
        InputError: there is no such file, the download is not the expected file, or it cannot be stored.
    """
    entry = IMAGENET_WEIGHTS.get((depth, version))
    if entry is None:
        depths = ", ".join(str(d) for d, v in IMAGENET_WEIGHTS if v == version)
        raise InputError(f"torchvision has no {version.upper()} weights of depth {depth}: choose from {depths}")
    path = cache_folder(torch.hub.get_dir()) / "checkpoints" / entry.file
    digest = _cached_digest(path, entry.sha256)
    if digest is None:
        base_url = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
        digest = download(
            f"{base_url.rstrip('/')}/{entry.file}",
            path,
            entry.sha256,
            by_hand="pass a file to `export` or `train` with `--weights FILE`",
            other_disk="set TORCH_HOME to a folder on another disk",
        )
    return Loaded(
        fill(read_weights(path).tensors, Architecture(depth=depth), path),
        Weights(source=f"torchvision, {BASE_URL}{entry.file}", sha256=digest, license=LICENSE),
        imagenet_labels(),
        entry.preprocessing,
        Accuracy(
            dataset="ImageNet-1k validation (published by torchvision)",
            images=50000,
            top1=entry.top1,
            top5=entry.top5,
        ),
    )


def _cached_digest(path: Path, expected: str) -> str | None:
    """The digest of a cached file; None if there is none, or if it is damaged and must be downloaded again."""
    if not path.exists():
        return None
    digest = file_digest(path)
    if digest.startswith(expected):
        return digest
    log.warning("%s is damaged (its SHA-256 should be %s, but is %s): downloading it again", path, expected, digest)
    return None
