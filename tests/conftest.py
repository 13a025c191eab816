"""Fixtures of several packages: a picture, published models, and the service as a real process.

Fixtures import what they need themselves: most tests need neither PyTorch nor ONNX Runtime, which take seconds to load.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.folders import copied, run_folder, shared_folder
from tests.support.processes import Service

# trio's plug-in, which selenium brings, searches the whole heap while hypothesis loads it
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the garbage collector off modules and collected tests, which live until the end.

    While they are collected, it would take a third of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the end-to-end tests spend part of their time waiting."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session", autouse=True)
def _tuning_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what services measure, in this process or another, out of the home folder; measures once per test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_CACHE_DIR", str(run_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session")
def resnet8_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The smaller model of `models_dir`, by itself: tests that need no other do not wait for the export of both.

    Read-only.
    """

    def publish_one(root: Path) -> None:
        from model_export.export.publish import publish
        from model_export.weights.random_weights import random_weights
        from service.runtime.model_card import Architecture

        publish(random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)), root)

    with shared_folder(tmp_path_factory, "resnet8", publish_one) as folder:
        yield folder


@pytest.fixture(scope="session")
def models_dir(resnet8_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two published models with random weights: `resnet18` (1000 classes, 224 pixels) and `resnet8-cifar` (10, 32).

    The latter is the default. Read-only.
    """

    def publish_both(root: Path) -> None:
        from model_export.export.publish import publish
        from model_export.versions import set_default
        from model_export.weights.random_weights import random_weights
        from service.runtime.model_card import Architecture

        publish(random_weights(Architecture(depth=18)), root)
        copied(resnet8_dir / "resnet8-cifar", root / "resnet8-cifar")
        set_default(root, "resnet8-cifar")

    with shared_folder(tmp_path_factory, "models", publish_both) as folder:
        yield folder


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same two models by name, card and input, but with graphs that compute next to nothing. Read-only.

    For tests of everything around the engine.
    """

    def publish_both(root: Path) -> None:
        from model_export.versions import set_default
        from service.runtime.model_card import Architecture
        from tests.support.tiny_models import publish_tiny

        publish_tiny(Architecture(depth=18), root)
        publish_tiny(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10), root)
        set_default(root, "resnet8-cifar")

    with shared_folder(tmp_path_factory, "tiny", publish_both) as folder:
        yield folder


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG file: a drawing from a seed that no model was trained on."""
    from model_export.drawings.pictures import CLASSES, picture

    return picture(99, CLASSES.index("triangle"))


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services and stops them afterwards: `start_service(models_dir, provider="cpu")`."""
    started: list[Service] = []

    def start(models_dir: Path, *, ready: bool = True, **settings: object) -> Service:
        service = Service(models_dir, tmp_path / f"service-{len(started)}.log", **settings)
        started.append(service)
        if ready:
            service.wait_until_ready()
        return service

    yield start
    for service in started:
        service.stop(signal.SIGKILL)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limits PyTorch to one thread. Nets this small gain nothing from more, and waiting threads slow a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
