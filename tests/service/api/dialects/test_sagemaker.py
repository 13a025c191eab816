"""`/invocations`, asked as SageMaker's runtime asks for its clients."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.service.api.client import form, problem


@pytest.fixture
def expected(client: TestClient, photo: bytes) -> list[float]:
    """The probabilities of all classes, by class id."""
    found = client.post("/classify?top_k=1000", content=photo).json()["images"][0]["predictions"]
    return [one["probability"] for one in sorted(found, key=lambda one: one["class_id"])]


@pytest.mark.parametrize("content_type", ["application/x-image", "image/jpeg", "application/octet-stream"])
def test_as_the_built_in_algorithm_answers(
    client: TestClient, photo: bytes, expected: list[float], content_type: str
) -> None:
    """Its notebooks: `result = json.loads(body); index = np.argmax(result)`."""
    response = client.post("/invocations", content=photo, headers={"content-type": content_type})
    assert response.headers["content-type"] == "application/json"
    result = json.loads(response.content)
    assert result == expected
    assert int(np.argmax(result)) == int(np.argmax(expected))


def test_lines_for_batch_transform(client: TestClient, photo: bytes, expected: list[float]) -> None:
    headers = {"content-type": "application/x-image", "accept": "application/jsonlines"}
    response = client.post("/invocations", content=photo, headers=headers)
    assert response.headers["content-type"] == "application/jsonlines"
    assert response.text.endswith("}\n")
    assert json.loads(response.text) == {"prediction": expected}


def test_json_as_tensorflow_serving_reads_it(client: TestClient, photo: bytes, expected: list[float]) -> None:
    body = {"instances": [{"b64": base64.b64encode(photo).decode()}]}
    (prediction,) = client.post("/invocations", json=body).json()["predictions"]
    assert prediction["probabilities"] == expected
    chosen = {**body, "parameters": {"model": "resnet8-cifar", "top_k": 1}}
    known = client.post("/classify?model=resnet8-cifar&top_k=1", content=photo).json()["images"]
    assert client.post("/invocations", json=chosen).json() == {"predictions": known}
    assert client.post("/invocations?model=resnet8-cifar&top_k=1", content=photo).json() == known[0]


def test_errors_are_problem_documents(client: TestClient, photo: bytes) -> None:
    problem(client.post("/invocations", content=b"nonsense"), 422, "not-an-image")
    problem(client.post("/invocations", json={"images": []}), 400, "malformed-json")
    problem(
        client.post("/invocations", content=photo, headers={"content-type": "text/html"}), 415, "unsupported-media-type"
    )
    problem(client.post("/invocations", files=form(photo, photo)), 400, "several-images")
