"""Liveness, readiness, metrics, and the application around them."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from benchmarks.versions import damage, publish_copy
from service.app import create_app
from service.lifecycle import NothingServed
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import Model, RepositoryError
from service.runtime.build import this_build
from service.runtime.engine import Engine
from service.runtime.providers import ProviderUnavailable
from service.settings import Settings
from tests.support.folders import copied
from tests.support.waiting import until, until_ready


def samples(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_live_and_ready(client: TestClient) -> None:
    assert client.get("/healthz/live").json() == {"status": "live"}
    assert client.get("/healthz/ready").json() == {"status": "ready"}


def test_while_draining_it_is_live_but_not_ready(tiny_dir: Path, photo: bytes) -> None:
    serving = True
    settings = Settings(models_dir=tiny_dir, models=("resnet8-cifar",), provider="cpu", max_batch=1)
    with TestClient(create_app(settings, serving=lambda: serving)) as client:
        until_ready(client)
        serving = False
        assert client.get("/healthz/ready").status_code == 503
        assert client.get("/healthz/live").status_code == 200
        assert client.post("/classify", files={"file": photo}).status_code == 200  # what still comes is answered


def test_while_loading_it_is_live_but_not_ready(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr("service.local_backend.load_engine", lambda *args, **options: gate.wait(30) and 1 / 0)
    failed: list[Exception] = []
    settings = Settings(models_dir=tiny_dir, models=("resnet8-cifar",), provider="cpu", max_batch=1)
    with TestClient(create_app(settings, on_fatal=failed.append)) as client:
        assert client.get("/healthz/ready").status_code == 503
        assert client.get("/healthz/live").status_code == 200
        assert client.get("/models").json()["models"][0]["state"] == "loading"
        response = client.post("/classify", content=b"x", headers={"content-type": "image/png"})
        assert (response.status_code, response.json()["type"]) == (503, "/problems/model-not-ready")
        assert int(response.headers["retry-after"]) >= 1
        gate.set()
        until(lambda: bool(failed))
    # An unexpected error while loading is not hidden, and fatal for the default model.
    assert isinstance(failed[0], NothingServed)
    assert "loading it failed unexpectedly: ZeroDivisionError" in str(failed[0])
    assert "ZeroDivisionError" in str(failed[0])


def test_a_model_that_must_answer_may_be_published_again_after_the_start(
    tiny_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="service.lifecycle")
    root = copied(tiny_dir, tmp_path / "models")
    damage(root / "resnet18" / "1")
    named = {"models": "resnet8-cifar, resnet18", "default_model": "resnet8-cifar", "poll_interval": 0.05}
    settings = Settings.model_validate({"models_dir": root, "provider": "cpu", "max_batch": 1, **named})
    with TestClient(create_app(settings)) as client:
        until(lambda: client.get("/models/resnet18").json()["state"] == "failed")
        publish_copy(root, "resnet8-cifar", 2)  # by the time that this one answers, loading has ended
        until(lambda: client.get("/models/resnet8-cifar").json()["version"] == 2)
        assert client.get("/healthz/ready").status_code == 503
        damage(root / "resnet18" / "1")  # the same bit again: it is whole
        publish_copy(root, "resnet18", 2, source="resnet18")
        until_ready(client)
        assert client.get("/models/resnet18").json()["version"] == 2
    assert [message for message in caplog.messages if message.startswith("ready: ")] == [
        "ready: resnet8-cifar, resnet18"
    ]


def test_cut_short_it_loads_no_other_model(tiny_dir: Path) -> None:
    """As after a second Ctrl-C: the event loop cancels everything, and then waits for all threads."""
    loading, gate = threading.Event(), threading.Event()
    opened: list[str] = []

    def open_engine(model: Model, settings: Settings) -> Engine:
        opened.append(model.name)
        loading.set()
        assert gate.wait(30)
        raise ProviderUnavailable("not here")

    settings = Settings(models_dir=tiny_dir, provider="cpu", engine_threads=1)  # one at a time
    app = create_app(settings, backend=LocalBackend(settings, Metrics(), open_engine=open_engine))

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.Event().wait()

    async def cut_short() -> None:
        serving = asyncio.create_task(serve())
        assert await asyncio.to_thread(loading.wait, 30)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        gate.set()
        await asyncio.sleep(0.1)

    asyncio.run(cut_short())
    assert opened == ["resnet18"]


def test_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="quickstart"):
        create_app(Settings(models_dir=tmp_path))


def test_the_build_is_named_and_counted(client: TestClient) -> None:
    build = this_build()
    assert client.get("/version").json() == build._asdict()
    labels = {"version": build.version, "commit": "", "python": build.python, "onnxruntime": build.onnxruntime}
    assert samples(client)[key("resnet_build_info", **labels)] == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/classify", 200),
        ("/embed", 200),
        ("/v1/models/resnet18:predict", 422),
        ("/invocations", 422),
        ("/v2/models/resnet18/infer", 400),
    ],
)
def test_an_image_that_is_refused_among_others_is_counted_by_its_problem(
    client: TestClient, photo: bytes, path: str, status: int
) -> None:
    before = samples(client)
    images = [photo, photo[:2000]]
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    if path.startswith("/v2"):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [one["b64"] for one in encoded]}
        response = client.post(path, json={"inputs": [tensor]})
    elif "/v1" in path or path == "/invocations":
        response = client.post(path, json={"instances": encoded})
    else:
        response = client.post(path, files=[("file", image) for image in images])
    assert response.status_code == status, response.text
    after = samples(client)
    for outcome in ("ok", "truncated-image"):
        name = key("resnet_images_total", model="resnet18", outcome=outcome)
        assert after.get(name, 0) - before.get(name, 0) == 1


def test_metrics_count_what_happened(client: TestClient, photo: bytes) -> None:
    before = samples(client)
    client.post("/classify", files=[("file", photo), ("file", photo[:2000])])
    client.post("/classify", files={"file": photo[:2000]})
    client.post("/classify?model=x", files={"file": photo})
    client.post("/classify?top_k=no", files={"file": photo})
    client.post("/classify?depth=no", files={"file": photo})
    after = samples(client)

    def grown(name: str, **labels: str) -> float:
        return after.get(key(name, **labels), 0) - before.get(key(name, **labels), 0)

    for model, status, problem, requests in (
        ("resnet18", "200", "", 1),
        ("resnet18", "422", "truncated-image", 1),
        ("resnet18", "422", "invalid-parameter", 1),
        ("unknown", "404", "unknown-model", 1),
        ("unknown", "422", "invalid-parameter", 1),
    ):
        assert grown("resnet_requests_total", model=model, status=status, problem=problem) == requests
    assert grown("resnet_images_total", model="resnet18", outcome="ok") == 1
    assert grown("resnet_images_total", model="resnet18", outcome="truncated-image") == 2
    assert after[key("resnet_request_bytes")] == 0
    for stage in ("decode", "queue", "inference", "total"):
        assert grown("resnet_stage_seconds_count", model="resnet18", stage=stage) == 1
    assert grown("resnet_batch_size_count", model="resnet18") == 1
    assert grown("resnet_confidence_count", model="resnet18") == 1
    assert after[key("resnet_images_in_service", model="resnet18")] == 0
    assert after[key("resnet_images_running", model="resnet18")] == 0
    info = {"model": "resnet18", "version": "1", "depth": "18", "variant": "v1.5", "provider": "cpu", "compute": "fp32"}
    assert after[key("resnet_model_info", **info)] == 1
    assert after[key("resnet_model_state", model="resnet18", version="1", state="ready")] == 1
    assert after[key("process_resident_memory_bytes")] > 10**7


def test_where_things_are(client: TestClient) -> None:
    places = client.get("/").json()
    for place in places.values():
        if place.startswith("/"):
            assert client.get(place).status_code == 200, place
    assert (places["classify"], places["preview"]) == ("POST /classify", "POST /preview")


@pytest.mark.parametrize("path", ["/classify", "/preview"])
def test_the_openapi_document_describes_every_body_and_every_problem(client: TestClient, path: str) -> None:
    operation = client.get("/openapi.json").json()["paths"][path]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
        "image/jpeg",
        "image/png",
        "image/webp",
    }
    assert {"200", "400", "404", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "application/problem+json" in operation["responses"]["422"]["content"]
    assert "application/json" not in operation["responses"]["422"]["content"]


def test_the_documentation_needs_nothing_from_outside(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"/static/{asset}" in page
        assert client.get(f"/static/{asset}").status_code == 200
