"""Published models to fetch, and a run of the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from model_export.versions import promote, set_default
from service.fetch import transfer
from service.fetch.__main__ import main
from service.runtime.model_card import Architecture, ModelCard
from service.runtime.model_folder import CARD_FILE, sha256
from tests.support.tiny_models import publish_tiny

SMALL = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # resnet8-cifar
OTHER = Architecture(depth=20, family="cifar", shortcut="A", num_classes=10)  # resnet20-cifar
MODEL_BYTES = 1_500_000


class Run(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.01)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Two models: `resnet8-cifar` with versions 1 (stable), 2 (canary) and 3, and `resnet20-cifar`, the default."""
    root = tmp_path / "published"
    for version in (1, 2, 3):
        enlarge(publish_tiny(SMALL, root, version=version, seed=version))
    publish_tiny(OTHER, root)
    promote(root, "resnet8-cifar", 1)
    promote(root, "resnet8-cifar", 2, "canary")
    set_default(root, "resnet20-cifar")
    return root


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """`run(SOURCE, *options)` fetches into `tmp_path / "models"`."""

    def fetch(source: object, *options: str) -> Run:
        status = main([str(source), f"--models-dir={tmp_path / 'models'}", *options])
        return Run(status, *capsys.readouterr())

    return fetch


def enlarge(folder: Path) -> None:
    """Gives a version a file of real size: its content is not looked at here, but takes time to come."""
    path = folder / "model.onnx"
    path.write_bytes(np.random.default_rng(int(folder.name)).bytes(MODEL_BYTES))
    card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    files = {"fp32": card.files["fp32"].model_copy(update={"sha256": sha256(path), "bytes": MODEL_BYTES})}
    (folder / CARD_FILE).write_text(card.model_copy(update={"files": files}).to_json())
