"""The state dict of a small network, a folder for weight files, and a file server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_export.nets.resnet import cifar_resnet
from model_export.weights import download as download_module
from tests.model_export.weights.file_server import FileServer
from tests.model_export.weights.weight_files import State


@pytest.fixture(scope="module")
def state() -> State:
    """The state dict of ResNet-8 for CIFAR with 3 classes. Its batch norm statistics differ from the initial ones."""
    net = cifar_resnet(8, num_classes=3)
    net(torch.rand(4, 3, 32, 32))
    return net.state_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder but for labels of three classes."""
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A running file server; downloads retry without waiting."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download_module, "BACKOFF_S", 0.0)
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
