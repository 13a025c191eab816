"""One id, one line and one measurement for each request, through the whole application."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import ComputationFailed
from service.logs import ACCESS
from service.pipeline import Pipeline
from service.settings import Settings
from tests.support.waiting import until, until_ready


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == ACCESS]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS)


def test_the_clients_id_comes_back(client: TestClient, photo: bytes) -> None:
    for path in ("/classify", "/nowhere", "/classify?top_k=no"):
        response = client.post(path, content=photo, headers={"x-request-id": "order-66"})
        assert response.headers.get_list("x-request-id") == ["order-66"]


def test_without_one_there_is_a_new_one(client: TestClient) -> None:
    ids = {
        client.get("/models", headers=headers).headers["x-request-id"] for headers in ({}, {}, {"x-request-id": "a b"})
    }
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


def test_problem_documents_name_it(client: TestClient, photo: bytes) -> None:
    headers = {"x-request-id": "order-66"}
    assert client.post("/classify", content=b"x", headers=headers).json()["request_id"] == "order-66"
    assert client.get("/nowhere", headers=headers).json()["request_id"] == "order-66"
    files = [("file", photo), ("file", b"x")]
    _, broken = client.post("/classify", files=files, headers=headers).json()["images"]
    assert broken["error"]["request_id"] == "order-66"


def test_an_accident_has_its_id_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("service.api.intake.read_parameters", fail)
    response = client.post("/classify", content=b"x", headers={"x-request-id": "order-66"})
    assert response.status_code == 500
    assert response.headers.get_list("x-request-id") == ["order-66"]
    assert response.json()["request_id"] == "order-66"
    assert lines(caplog)[-1]["status"] == 500


@pytest.mark.parametrize("path", ["/v1/models/resnet18:predict", "/v2/models/resnet18/infer"])
def test_an_accident_over_another_protocol_has_its_id_too(
    path: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("secret")

    for module in ("intake", "open_inference.routes"):
        monkeypatch.setattr(f"service.api.{module}.seconds_of", fail)
    response = client.post(path, content=b"x", headers={"x-request-id": "order-66"})
    assert (response.status_code, list(response.json())) == (500, ["error"])
    assert response.headers.get_list("x-request-id") == ["order-66"]


def test_a_line_says_what_was_asked_and_what_became_of_it(
    client: TestClient, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/classify?model=resnet8-cifar", files=[("file", photo), ("file", photo)])
    client.post("/classify?depth=18", content=photo[:3000])
    first, second = lines(caplog)
    assert first.pop("ms") > 0
    assert first.pop("bytes") > 2 * len(photo)
    assert first == {
        "method": "POST",
        "path": "/classify",
        "status": 200,
        "client": "testclient",
        "model": "resnet8-cifar@1",
        "images": 2,
    }
    assert (second["status"], second["model"], second["problem"]) == (422, "resnet18@1", "truncated-image")
    assert re.fullmatch(
        r"POST /classify 422 in \d+\.\d ms client=testclient bytes=3000 model=resnet18@1 images=1 "
        r"problem=truncated-image",
        caplog.records[-1].getMessage(),
    )


def test_no_client_writes_a_line_of_its_own(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/a%0d%0aINFO%20b", headers={"x-request-id": "a\tb"})
    assert lines(caplog)[-1]["path"] == "/a%0D%0AINFO%20b"
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)


def test_no_client_fills_the_log_with_one_line(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/" + "a" * 50_000)
    assert lines(caplog)[-1]["path"] == "/" + "a" * 999
    assert len(caplog.records[-1].getMessage()) < 1200


def test_probes_are_of_interest_only_if_they_fail(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/healthz/live", "/healthz/ready", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    assert client.get("/healthz/nothing").status_code == 404
    assert [line["path"] for line in lines(caplog)] == ["/healthz/nothing"]


def test_requests_are_measured(client: TestClient) -> None:
    def count(handler: str, status: int) -> float:
        text = client.get("/metrics").text
        name = rf'resnet_http_request_seconds_count{{handler="{handler}",status="{status}"}} (\S+)'
        found = re.search(name, text)
        return float(found[1]) if found else 0.0

    before = count("models", 200), count("other", 404)
    for path in ("/models", "/models/", "/models/resnet18", "/nowhere", "/else"):
        client.get(path)
    assert (count("models", 200), count("other", 404)) == (before[0] + 3, before[1] + 2)
    assert "resnet_http_requests_in_flight 1.0" in client.get("/metrics").text


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service fails on images that end with `bad`."""
    answer = Pipeline._answer

    async def fails(pipeline: Pipeline, job: Any, *rest: Any) -> Any:
        return ComputationFailed() if job.data.endswith(b"bad") else await answer(pipeline, job, *rest)

    monkeypatch.setattr(Pipeline, "_answer", fails)


@pytest.mark.usefixtures("failing")
def test_where_the_service_failed_on_some_images_only(client: TestClient, photo: bytes) -> None:
    """A partial answer is 200, and counted."""

    def partial() -> float:
        found = re.search(r'resnet_partial_answers_total{model="resnet18"} (\S+)', client.get("/metrics").text)
        return float(found[1]) if found else 0.0

    before = partial()
    response = client.post("/classify", files=[("file", photo + b"bad"), ("file", photo)])
    assert response.status_code == 200
    assert [entry.get("error", {}).get("status") for entry in response.json()["images"]] == [503, None]
    assert partial() == before + 1
    response = client.post("/classify", files=[("file", photo + b"bad"), ("file", photo + b"bad")])
    assert response.status_code == 503
    response = client.post("/classify", files=[("file", photo), ("file", b"x")])
    assert response.status_code == 200
    assert partial() == before + 1


@pytest.mark.usefixtures("failing")
def test_images_on_which_the_service_failed_are_kept(tiny_dir: Path, tmp_path: Path, photo: bytes) -> None:
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1, keep_failed=tmp_path / "failed")
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        files = [("file", photo), ("file", b"not an image"), ("file", photo + b"bad")]
        client.post("/classify?model=resnet18", files=files, headers={"x-request-id": "order-66"})
        until(lambda: len(list(tmp_path.glob("failed/*.image"))) == 1)
    (kept,) = tmp_path.glob("failed/*-order-66-2.image")
    assert kept.read_bytes() == photo + b"bad"
    said = json.loads(kept.with_suffix(".json").read_text())
    assert (said["model"], said["version"], said["images"], said["number"]) == ("resnet18", 1, 3, 2)
