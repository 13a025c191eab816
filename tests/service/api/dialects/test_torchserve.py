"""TorchServe's inference API, asked with the requests of its document; and `/ping`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.logs import ACCESS
from service.runtime.model_card import Architecture
from service.settings import Settings
from tests.service.api.client import form
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until_ready

MODEL = "/predictions/resnet8-cifar"


@pytest.fixture
def expected(client: TestClient, photo: bytes) -> dict[str, float]:
    found = client.post("/classify?model=resnet8-cifar", content=photo).json()["images"][0]["predictions"]
    return {one["label"]: one["probability"] for one in found}


def test_the_requests_of_its_document(client: TestClient, photo: bytes, expected: dict[str, float]) -> None:
    """`curl -T kitten_small.jpg`, which is a PUT without a content type, and `curl -F "data=@kitten_small.jpg"`."""
    assert len(expected) == 5
    for path in (MODEL, f"{MODEL}/1.0", f"{MODEL}/1"):
        assert client.put(path, content=photo).json() == expected
        answer = client.post(path, files={"data": ("kitten_small.jpg", photo)})
        assert answer.json() == expected
        assert list(answer.json()) == list(expected)  # the best first
    assert client.post(MODEL, content=photo, headers={"content-type": "image/jpeg"}).json() == expected
    assert client.post(f"{MODEL}?top_k=2", content=photo).json() == dict(list(expected.items())[:2])


def test_classes_with_the_same_name_stay_apart(tmp_path: Path, photo: bytes) -> None:
    folder = publish_tiny(Architecture(depth=8, family="cifar", shortcut="A", num_classes=3), tmp_path)
    card = folder / "card.json"
    text = card.read_text()
    for class_id in range(3):
        text = text.replace(f'"class {class_id}"', '"crane"')
    card.write_text(text)
    with TestClient(create_app(Settings(models_dir=tmp_path, provider="cpu", max_batch=1))) as client:
        until_ready(client)
        found = client.post("/classify", content=photo).json()["images"][0]["predictions"]
        first, *others = [(one["class_id"], one["probability"]) for one in found]
        answer = client.post(MODEL, content=photo).json()
        assert answer == {"crane": first[1], **{f"crane ({class_id})": p for class_id, p in others}}


def test_errors_in_its_form(client: TestClient, photo: bytes) -> None:
    def error(path: str, content: bytes) -> tuple[int, int, str, str]:
        response = client.post(path, content=content)
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert list(answer) == ["code", "type", "message"]
        return response.status_code, answer["code"], answer["type"], answer["message"]

    status, code, kind, message = error("/predictions/nix", photo)
    assert (status, code, kind) == (404, 404, "ModelNotFoundException")
    assert "Choose one of" in message
    assert error(f"{MODEL}/7.0", photo)[:3] == (404, 404, "ModelNotFoundException")
    assert error(MODEL, b"nonsense")[:3] == (422, 422, "BadRequestException")
    assert error(MODEL, bytes(300_001))[:3] == (413, 413, "RequestEntityTooLargeException")
    response = client.post(MODEL, files=form(photo, photo))
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")


def test_ping(client: TestClient, tiny_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SageMaker wants 200 or 503, TorchServe's clients the body."""
    with caplog.at_level(logging.INFO, ACCESS):
        response = client.get("/ping")
    assert (response.status_code, response.json()) == (200, {"status": "Healthy"})
    assert not caplog.records  # asked every few seconds
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1)
    with TestClient(create_app(settings, serving=lambda: False)) as stopping:
        response = stopping.get("/ping")
        assert (response.status_code, response.json()) == (503, {"status": "Unhealthy"})
