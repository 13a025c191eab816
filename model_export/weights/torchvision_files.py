"""The files of ImageNet weights that torchvision has released, and what is known of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from model_export.weights.description import Description
from model_export.weights.labels import imagenet_labels
from service.runtime.measured import Accuracy
from service.runtime.model_card import Architecture
from service.runtime.preprocessing import Preprocessing

BASE_URL = "https://download.pytorch.org/models/"

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


def released_by_torchvision(digest: str) -> Description | None:
    """What is known of the file with this SHA-256 (in hex), under whatever name; None if torchvision released no such.

    The file itself records nothing: neither the variant nor the V2 files' other resize.
    """
    for (depth, _), entry in IMAGENET_WEIGHTS.items():
        if digest.startswith(entry.sha256):
            return Description(
                f"torchvision, {BASE_URL}{entry.file}",
                Architecture(depth=depth),
                imagenet_labels(),
                entry.preprocessing,
                LICENSE,
                Accuracy(
                    dataset="ImageNet-1k validation (published by torchvision)",
                    images=50000,
                    top1=entry.top1,
                    top5=entry.top5,
                ),
            )
    return None
