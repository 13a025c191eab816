"""torchvision's ImageNet weights, from the torch hub cache or downloaded into it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from model_export.errors import InputError
from model_export.paths import cache_folder
from model_export.weights.download import download
from model_export.weights.loading import Loaded, file_digest, load_file
from model_export.weights.torchvision_files import BASE_URL, IMAGENET_WEIGHTS, ImagenetVersion

log = logging.getLogger(__name__)

BASE_URL_VARIABLE = "MODEL_EXPORT_WEIGHTS_URL"


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
    if not _is_cached(path, entry.sha256):
        base_url = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
        download(
            f"{base_url.rstrip('/')}/{entry.file}",
            path,
            entry.sha256,
            by_hand="pass a file to `export` or `train` with `--weights FILE`",
            other_disk="set TORCH_HOME to a folder on another disk",
        )
    return load_file(path)


def _is_cached(path: Path, expected: str) -> bool:
    """Whether the cache has the file; not if it is damaged and must be downloaded again."""
    if not path.exists():
        return False
    digest = file_digest(path)
    if digest.startswith(expected):
        return True
    log.warning("%s is damaged (its SHA-256 should be %s, but is %s): downloading it again", path, expected, digest)
    return False
