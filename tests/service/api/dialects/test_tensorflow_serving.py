"""The paths of TensorFlow Serving, KServe V1 and Vertex AI, asked as their documents and examples ask."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.api.dialects.tensorflow_serving import layout_of_examples, layout_of_predict
from service.api.json_images import Layout, layout_of_classify
from service.app import create_app
from service.json_faults import MalformedJson
from service.runtime.model_card import Architecture
from service.settings import Settings
from tests.service.api.client import as_bearer, entry, form
from tests.support.mutations import tried
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until, until_ready

MODEL = "/v1/models/resnet8-cifar"


@pytest.fixture
def text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@pytest.fixture
def expected(client: TestClient, photo: bytes) -> list[float]:
    """The probabilities of all classes, by class id."""
    found = client.post("/classify?model=resnet8-cifar&top_k=10", files=form(photo)).json()["images"][0]["predictions"]
    return [one["probability"] for one in sorted(found, key=lambda one: one["class_id"])]


def error(response: httpx.Response, status: int) -> str:
    """Checks that a response is an error as TensorFlow Serving says it; returns its text."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"  # KServe's client looks for exactly that
    assert list(response.json()) == ["error"]
    text: str = response.json()["error"]
    return text


def test_the_official_resnet_client(client: TestClient, text: str, expected: list[float]) -> None:
    """tensorflow_serving/example/resnet_client.py: no content type, and what it reads of the answer."""
    predict_request = f'{{"instances" : [{{"b64": "{text}"}}]}}'
    response = client.post(f"{MODEL}:predict", content=predict_request)
    prediction = response.json()["predictions"][0]
    assert prediction["probabilities"] == expected
    assert prediction["classes"] == int(np.argmax(expected))
    assert "inference;dur=" in response.headers["server-timing"]


def test_curl_d_says_that_the_json_is_a_form(client: TestClient, text: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"instances": [{"b64": text}]})
    assert client.post(f"{MODEL}:predict", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [f"{MODEL}/versions/1", "/v1/models/resnet8-cifar@1", f"{MODEL}/"])
def test_versions_are_part_of_the_path(client: TestClient, text: str, path: str) -> None:
    path = path.rstrip("/")
    assert client.post(f"{path}:predict", json={"instances": [{"b64": text}]}).status_code == 200


def test_every_form_of_an_instance(client: TestClient, text: str, expected: list[float]) -> None:
    forms: list[object] = [
        {"b64": text},
        {"b64": text, "key": "1"},
        {"image_bytes": {"b64": text}, "key": "1"},  # KServe's flowers sample
        {"data": text, "target": 0},  # TorchServe behind KServe
        {"content": text},  # Vertex AI's AutoML
        {"input_1": {"b64": text}},
        text,
    ]
    for one in forms:
        answer = client.post(f"{MODEL}:predict", json={"signature_name": "serving_default", "instances": [one, one]})
        assert [p["probabilities"] for p in answer.json()["predictions"]] == [expected] * 2, one


def test_columns(client: TestClient, text: str, expected: list[float]) -> None:
    image = {"b64": text}
    for inputs, images in (
        ([image, image], 2),
        (image, 1),
        ({"image_bytes": [image, image]}, 2),
        ({"image_bytes": image}, 1),
    ):
        outputs = client.post(f"{MODEL}:predict", json={"inputs": inputs}).json()["outputs"]
        assert outputs == {"classes": [int(np.argmax(expected))] * images, "probabilities": [expected] * images}


@pytest.mark.parametrize("parameters", [{"top_k": 2}, {"labels": "class 3,4"}])
def test_how_many_classes_and_which(client: TestClient, photo: bytes, text: str, parameters: dict[str, object]) -> None:
    """Vertex AI's `parameters`, or the query: predictions are entries of /classify."""
    known = client.post("/classify", params={"model": "resnet8-cifar", **parameters}, content=photo).json()["images"]
    body = {"instances": [{"b64": text}]}
    assert client.post(f"{MODEL}:predict", json={**body, "parameters": parameters}).json() == {"predictions": known}
    assert client.post(f"{MODEL}:predict", json=body, params=parameters).json() == {"predictions": known}
    columns = {"inputs": [{"b64": text}], "parameters": parameters}
    assert client.post(f"{MODEL}:predict", json=columns).json() == {"outputs": known}


def test_the_classify_api(client: TestClient, photo: bytes, text: str) -> None:
    examples = [{"image": {"b64": text}, "caption": "seaside"}] * 2
    answer = client.post(f"{MODEL}:classify", json={"signature_name": "classify_objects", "examples": examples})
    found = client.post("/classify?model=resnet8-cifar", content=photo).json()["images"][0]["predictions"]
    pairs = [[one["label"], one["probability"]] for one in found]
    assert answer.json() == {"results": [pairs, pairs]}
    assert "examples is null" in error(client.post(f"{MODEL}:classify", json={"instances": [text]}), 400)


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"{", 400, "EOF"),
        (b"{}", 400, "neither instances nor inputs"),
        (b'{"instances": [], "inputs": []}', 400, "both instances and inputs"),
        (b'{"instances": []}', 400, "instances is an empty list"),
        (b'{"instances": {"b64": "AAAA"}}', 400, "instances is an object with b64"),
        (b'{"instances": [{}]}', 400, "instances[0] is an empty object"),
        (b'{"instances": [5]}', 400, "instances[0] is a number"),
        (b'{"instances": [[[0, 0, 0]]]}', 400, "instances[0] is a list, as of pixels"),
        (b'{"instances": [{"image": [[0, 0]]}]}', 400, "instances[0].image is a list, as of pixels"),
        (b'{"instances": [{"a": {"b64": ""}, "b": {"b64": ""}}]}', 400, "several inputs, a, b"),
        (b'{"inputs": {"a": 1}}', 400, "inputs is an object with a"),
        (b'{"inputs": {"image_bytes": []}}', 400, "inputs.image_bytes is an empty list"),
        (b'{"instances": ["AAAA"], "parameters": []}', 400, "parameters is an empty list"),
        (b'{"instances": ["AAAA"], "parameters": {"depth": 8}}', 422, "unknown parameter `depth`"),
        (b'{"instances": ["AAAA"], "parameters": {"top_k": 11}}', 422, "from 1 to 10"),
        (b'{"instances": [{"b64": "gs://bucket/cat.jpg"}]}', 422, "instances[0].b64 is an address (gs:)"),
        (b'{"instances": [{"b64": "!"}]}', 422, "instances[0].b64 is not base64"),
        (b'{"instances": [{"b64": "AAAA"}]}', 422, "not a JPEG, PNG or WebP image"),
        (b'{"instances": ["' + b"A" * 400_004 + b'"]}', 413, "at most 300000 are accepted"),
        (b'{"instances": ["AAAA", "AAAA", "AAAA", "AAAA"]}', 413, "At most 3 images"),
        (b'{"instances": [' + b"[0,0,0]," * 10_000 + b"[0,0,0]]}", 400, "image files in base64, not pixels"),
    ],
)
def test_errors(client: TestClient, body: bytes, status: int, part: str) -> None:
    assert part in error(client.post(f"{MODEL}:predict", content=body), status)


NAMES = st.sampled_from(["b64", "image_bytes", "a", "parameters", "top_k", "labels", "image", "images"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["", "AAAA", "é"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


@tried(300)
@given(
    layout=st.sampled_from([layout_of_predict, layout_of_examples, layout_of_classify]),
    members=st.dictionaries(
        st.one_of(NAMES, st.sampled_from(["instances", "inputs", "examples"])), VALUES, min_size=1, max_size=3
    ),
)
def test_any_json_is_images_or_an_error(layout: Layout, members: dict[str, object]) -> None:
    try:
        content = layout(members)
    except MalformedJson:
        return
    assert content.images
    assert all(isinstance(value, str) for pair in (*content.images, *content.fields) for value in pair)


def test_one_bad_image_is_the_error_of_the_request(client: TestClient, text: str) -> None:
    """Predictions have no place for it."""
    response = client.post(f"{MODEL}:predict", json={"instances": [{"b64": text}, {"b64": "AAAA"}]})
    assert error(response, 422).startswith("image 1 of the request: The upload is not a JPEG")
    assert response.headers["x-request-id"]


def test_models_that_there_are_not(client: TestClient, text: str) -> None:
    for path in ("/v1/models/nix", f"{MODEL}/versions/7", f"{MODEL}/labels/canary"):
        assert "No model with the name" in error(client.get(path), 404)
        assert "No model with the name" in error(client.post(f"{path}:predict", json={"instances": [text]}), 404)


def test_paths_and_methods_that_there_are_not(client: TestClient) -> None:
    assert "/v1/nix" in error(client.get("/v1/nix"), 404)
    response = client.get(f"{MODEL}/versions/1:nix/x")
    assert "no path" in error(response, 404)
    response = client.delete(MODEL)
    assert "does not answer DELETE" in error(response, 405)
    assert response.headers["allow"]


def test_the_list_and_the_status_of_models(client: TestClient) -> None:
    assert set(client.get("/v1/models").json()["models"]) == {"resnet18", "resnet8-cifar"}
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    expected = {"name": "resnet8-cifar", "ready": True, "model_version_status": [available]}
    assert client.get(MODEL).json() == expected
    assert client.get(f"{MODEL}/versions/1").json() == expected | {"name": "resnet8-cifar@1"}


def test_a_model_that_cannot_be_loaded(tmp_path: Path, text: str) -> None:
    cifar = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
    publish_tiny(cifar, tmp_path)
    broken = publish_tiny(Architecture(depth=18), tmp_path)
    (broken / "model.onnx").write_bytes(b"no graph")
    settings = Settings(models_dir=tmp_path, provider="cpu", max_batch=1, default_model="resnet8-cifar")
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        until(lambda: client.get("/models/resnet18").json()["state"] == "failed")
        response = client.get("/v1/models/resnet18")
        assert response.status_code == 503
        answer = response.json()
        assert (answer["ready"], answer["error"]) == (False, "Model resnet18 is not ready.")
        (version,) = answer["model_version_status"]
        assert (version["state"], version["status"]["error_code"]) == ("END", "INTERNAL")
        assert str(tmp_path) not in response.text
        error(client.post("/v1/models/resnet18:predict", json={"instances": [text]}), 503)


def test_keys_and_metrics_are_those_of_classify(tiny_dir: Path, tmp_path: Path, text: str) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("user", '"classify"') + entry("prometheus", '"metrics"'))
    settings = Settings(models_dir=tiny_dir, models=["resnet8-cifar"], provider="cpu", max_batch=1, api_keys_file=keys)
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        body = {"instances": [text]}
        refused = client.post(f"{MODEL}:predict", json=body)
        assert "needs a key" not in error(refused, 401)
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert client.post(f"{MODEL}:predict", json=body, headers=as_bearer("user")).status_code == 200
        assert client.get(MODEL).status_code == 200
        metrics = client.get("/metrics", headers=as_bearer("prometheus")).text
        assert 'resnet_requests_total{model="resnet8-cifar",problem="",status="200"} 1.0' in metrics
        assert 'resnet_requests_total{model="unknown",problem="unauthorized",status="401"} 1.0' in metrics
        assert 'resnet_http_request_seconds_count{handler="v1",status="200"}' in metrics
