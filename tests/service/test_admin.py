"""The admin port, over real sockets: what it answers, and that nothing on the main event loop keeps it from that."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from service.admin import admin_port
from service.app import create_app
from service.metrics import Metrics
from service.runtime.build import this_build
from service.settings import Settings
from tests.support.processes import free_port, request
from tests.support.waiting import until


class Both:
    """A service with both ports: the main one as a test client, the admin one as a socket."""

    def __init__(self, main: TestClient, port: int) -> None:
        self.main = main
        self.url = f"http://127.0.0.1:{port}"

    def admin(self, path: str, method: str = "GET", **options: object) -> httpx.Response:
        return request(method, f"{self.url}{path}", timeout=60, **options)


@pytest.fixture
def start(tiny_dir: Path) -> Iterator[Callable[..., Both]]:
    with ExitStack() as stack:

        def make(serving: Callable[[], bool] = lambda: True, **settings: object) -> Both:
            port = free_port()
            given = {"models_dir": tiny_dir, "models": "resnet8-cifar", "provider": "cpu", "max_batch": 1}
            app = create_app(Settings.model_validate(given | {"admin_port": port} | settings), serving=serving)
            both = Both(stack.enter_context(TestClient(app)), port)
            until(lambda: accepts(port))
            return both

        yield make


def accepts(port: int) -> bool:
    try:
        request("GET", f"http://127.0.0.1:{port}/healthz/live")
    except httpx.TransportError:
        return False
    return True


def until_ready(both: Both) -> None:
    until(lambda: both.admin("/healthz/ready").status_code == 200, 60)


def test_it_has_health_and_metrics_and_the_main_port_health_only(start: Callable[..., Both], photo: bytes) -> None:
    both = start()
    until_ready(both)
    assert both.main.post("/classify", content=photo).status_code == 200
    assert 'resnet_requests_total{model="resnet8-cifar",problem="",status="200"} 1.0' in both.admin("/metrics").text
    assert both.admin("/healthz/live").json() == both.main.get("/healthz/live").json() == {"status": "live"}
    assert both.admin("/healthz/ready").json() == both.main.get("/healthz/ready").json() == {"status": "ready"}
    assert both.admin("/healthz/live", "HEAD").status_code == 200
    assert both.admin("/version").json() == this_build()._asdict()
    for path in ("/metrics", "/version"):
        assert both.main.get(path).status_code == 404
    assert "/metrics" not in both.main.get("/openapi.json").json()["paths"]
    assert not {"metrics", "version"} & both.main.get("/").json().keys()
    for path in ("/classify", "/models", "/docs", "/openapi.json", "/"):
        assert both.admin(path).json()["type"] == "/problems/not-found"


def test_it_answers_while_the_main_event_loop_is_stuck(start: Callable[..., Both]) -> None:
    both = start()
    until_ready(both)
    stuck, release = threading.Event(), threading.Event()

    def block() -> None:
        stuck.set()
        assert release.wait(60)

    assert both.main.portal
    blocking = both.main.portal.start_task_soon(block)
    assert stuck.wait(30)
    try:
        for path in ("/healthz/live", "/healthz/ready", "/metrics"):
            assert both.admin(path).status_code == 200
    finally:
        release.set()
    blocking.result(30)


def test_its_answers_are_true(start: Callable[..., Both]) -> None:
    state = {"serving": True}
    both = start(serving=lambda: state["serving"])
    until_ready(both)
    for serving, status in ((False, 503), (True, 200)):
        state["serving"] = serving
        for get in (both.admin, both.main.get):
            assert (get("/healthz/ready").status_code, get("/healthz/live").status_code) == (status, 200)


def test_it_is_not_ready_while_models_load(start: Callable[..., Both], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    from service.local_backend import load_engine

    def load(*args: object, **options: object) -> object:
        assert gate.wait(60)
        return load_engine(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("service.local_backend.load_engine", load)
    both = start()
    assert (both.admin("/healthz/ready").status_code, both.admin("/healthz/live").status_code) == (503, 200)
    gate.set()
    until_ready(both)


def test_keys_hold_there_too(start: Callable[..., Both], tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[prometheus]\nsha256 = "{hashlib.sha256(b"token").hexdigest()}"\nscopes = ["metrics"]\n')
    both = start(api_keys_file=path)
    until_ready(both)
    assert both.admin("/metrics").status_code == 401
    assert both.admin("/metrics", headers={"x-api-key": "token"}).status_code == 200


def test_it_ends_with_its_context() -> None:
    told = (lambda: True, lambda: None)
    settings = Settings(admin_port=free_port())
    for _ in range(2):  # the port is free again
        with admin_port(settings, *told, Metrics()):
            until(lambda: accepts(settings.admin_port or 0))
        assert not accepts(settings.admin_port or 0)
    with admin_port(Settings(), *told, Metrics()):  # no port, no thread
        assert "admin" not in {thread.name for thread in threading.enumerate()}
    with admin_port(settings, *told, Metrics()), pytest.raises(OSError, match="in use"):
        admin_port(settings, *told, Metrics())
