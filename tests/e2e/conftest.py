"""Fixtures for tests of the balancer (replicas, requests whose answers are known, nginx), engines that wait, and a
browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_export.drawings.pictures import CLASSES, picture
from tests.support.balancer import REPLICA, Balancer, Known, nginx, require_nginx
from tests.support.processes import Service, before_each_batch

if TYPE_CHECKING:
    from selenium import webdriver


@pytest.fixture(scope="module")
def replicas(resnet8_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two replicas, for tests that do not stop them."""
    logs = tmp_path_factory.mktemp("replicas")
    started = [Service(resnet8_dir, logs / f"{i}.log", **REPLICA) for i in range(2)]
    try:
        for replica in started:
            replica.wait_until_ready()
        yield started
    finally:
        for replica in started:
            replica.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def known(replicas: list[Service]) -> list[Known]:
    """For each class that the network answers, the drawing with the clearest answer.

    Random weights mean nothing, but several classes occur, with margins that rounding in other batch sizes cannot turn.
    """
    surest: dict[int, tuple[float, bytes]] = {}
    for seed in range(3):
        for index in range(len(CLASSES)):
            jpeg = picture(seed, index)
            answer = replicas[0].classify(jpeg, "?top_k=2")
            first, second = answer.json()["images"][0]["predictions"]
            candidate = (first["probability"] - second["probability"], jpeg)
            surest[first["class_id"]] = max(candidate, surest.get(first["class_id"], candidate))
    return [Known(jpeg, class_id) for class_id, (margin, jpeg) in surest.items() if margin > 0.02]


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Callable[..., Balancer]]:
    """Starts nginx in front of the replicas on these ports, as `nginx` does; stops it afterwards."""
    require_nginx()
    with contextlib.ExitStack() as stack:
        yield lambda ports, **options: stack.enter_context(nginx(tmp_path, ports, **options))


@pytest.fixture
def start_replica(resnet8_dir: Path, start_service: Callable[..., Service]) -> Callable[..., Service]:
    """Starts a replica for a test that stops or breaks it."""
    return lambda **settings: start_service(resnet8_dir, **REPLICA | settings)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file exists, no batch of the services that are started now ends."""
    return before_each_batch(monkeypatch, tmp_path / "held", "while on(): time.sleep(0.005)")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with an empty profile. It keeps the warnings of its console, and every request that it sends."""
    from selenium import webdriver

    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        assert "CI" not in os.environ, "CI must have Chromium: tests/install-tools installs it"
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "window-size=1280,2000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "WARNING", "performance": "ALL"})
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()
