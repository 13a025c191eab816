"""`GET /models` and what hangs below it."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_the_list(client: TestClient) -> None:
    found = client.get("/models").json()
    assert found["depths"] == [8, 18]
    assert found["default"] == "resnet18"
    assert [model["name"] for model in found["models"]] == ["resnet18", "resnet8-cifar"]
    assert found["unreadable"] == {}


def test_one_model(client: TestClient) -> None:
    model = client.get("/models/resnet18").json()
    assert model in client.get("/models").json()["models"]
    assert model == {
        "name": "resnet18",
        "default": True,
        "depth": 18,
        "version": 1,
        "variant": "v1.5",
        "shortcut": "B",
        "parameters": 11_689_512,
        "weights": {
            "source": "random (seed 0), for benchmarks: its answers mean nothing",
            "sha256": None,
            "license": None,
        },
        "accuracy": None,
        "calibration": None,
        "classes": 1000,
        "input": {"size": 224, "resize": 256, "interpolation": "bilinear"},
        "state": "ready",
        "reason": None,
        "precision": "fp32",
        "provider": "cpu",
        "providers_refused": {},
        "batch_sizes": [1, 2, 3, 4, 5, 6, 7, 8],
    }


def test_labels(client: TestClient) -> None:
    labels = client.get("/models/resnet18/labels").json()
    assert len(labels) == 1000
    assert labels[1] == {"class_id": 1, "name": "goldfish", "wnid": "n01443537"}


def test_unknown(client: TestClient) -> None:
    for path in ("/models/x", "/models/x/labels"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-model"
        assert "resnet8-cifar" in response.json()["remedy"]
