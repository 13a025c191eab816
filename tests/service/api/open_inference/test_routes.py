"""`/v2`: health, metadata, inference and errors, over HTTP."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.admission import Room
from service.app import create_app
from service.runtime.images.decoding import decode
from service.runtime.model_folder import read_card
from service.settings import Settings
from tests.service.api.client import as_bearer, entry
from tests.service.api.conftest import LIMITS
from tests.support.waiting import until_ready

MODEL = "/v2/models/resnet8-cifar"
HEADER = "inference-header-content-length"


@pytest.fixture
def pixels(tiny_dir: Path, photo: bytes) -> np.ndarray:
    """What the network sees of the photo."""
    return decode(photo, read_card(tiny_dir / "resnet8-cifar" / "1").preprocessing, max_pixels=10**9).pixels


def infer(client: TestClient, body: Any, rest: bytes = b"", path: str = MODEL) -> httpx.Response:
    text = json.dumps(body).encode()
    headers = {HEADER: str(len(text))} if rest else {}
    response: httpx.Response = client.post(f"{path}/infer", content=text + rest, headers=headers)
    return response


def of_pixels(pixels: np.ndarray, **more: Any) -> dict[str, Any]:
    shape = [1, *pixels.shape]
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": pixels.ravel().tolist()}], **more}


def of_files(*files: bytes, **more: Any) -> tuple[dict[str, Any], bytes]:
    """The request, and the bytes behind it."""
    rest = b"".join(struct.pack("<I", len(file)) + file for file in files)
    parameters = {"binary_data_size": len(rest)}
    return {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(files)], "parameters": parameters}],
        **more,
    }, rest


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert list(said) == ["error"]
    return str(said["error"])


def test_health(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})


def test_not_ready_is_503(tiny_dir: Path) -> None:
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1)
    with TestClient(create_app(settings, serving=lambda: False)) as client:
        assert client.get("/v2/health/live").status_code == 200
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_names_itself_and_its_extensions(client: TestClient, path: str) -> None:
    said = client.get(path).json()
    assert said.keys() == {"name", "version", "extensions"}
    assert {"binary_tensor_data", "classification", "statistics"} <= set(said["extensions"])


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_model_describes_its_tensors(client: TestClient, version: str) -> None:
    said = client.get(MODEL + version).json()
    assert (said["name"], said["versions"], said["platform"]) == ("resnet8-cifar", ["1"], "onnx_onnxv1")
    assert said["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, 32, 32]}]
    assert said["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    assert client.get(f"{MODEL}{version}/ready").json() == {"name": "resnet8-cifar", "ready": True}


def test_the_index(client: TestClient) -> None:
    names = [entry["name"] for entry in client.post("/v2/repository/index").json()]
    assert names == ["resnet18", "resnet8-cifar"]
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert ready[0] == {"name": "resnet18", "version": "1", "state": "READY", "reason": ""}
    assert "true or false" in error(client.post("/v2/repository/index", json={"ready": 1}), 400)
    assert "not JSON" in error(client.post("/v2/repository/index", content=b"{"), 400)
    assert "4096" in error(client.post("/v2/repository/index", content=b" " * 5000), 413)


def test_statistics(client: TestClient, pixels: np.ndarray) -> None:
    def stats() -> dict[str, Any]:
        (found,) = client.get(f"{MODEL}/stats").json()["model_stats"]
        return dict(found)

    before = stats()
    assert infer(client, of_pixels(pixels)).status_code == 200
    after = stats()
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert len(client.get("/v2/models/stats").json()["model_stats"]) == 2


def test_statistics_are_not_on_the_public_port_beside_an_admin_port(tiny_dir: Path) -> None:
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1, admin_port=9)
    with TestClient(create_app(settings, opens_admin_port=False)) as client:
        error(client.get(f"{MODEL}/stats"), 404)
        error(client.get("/v2/models/stats"), 404)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_answer_is_that_of_classify(client: TestClient, photo: bytes, pixels: np.ndarray, version: str) -> None:
    classified = client.post("/classify?model=resnet8-cifar&top_k=10", files={"file": photo}).json()["images"][0]
    expected = {each["class_id"]: each["probability"] for each in classified["predictions"]}
    outputs = [{"name": "probabilities"}, {"name": "logits", "parameters": {"classification": 2}}]
    files, rest = of_files(photo, id="42", outputs=outputs)
    encoded = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(photo).decode()]}
    for answer in (
        infer(client, files, rest, path=MODEL + version),
        infer(client, {"id": "42", "inputs": [encoded], "outputs": outputs}, path=MODEL + version),
        infer(client, of_pixels(pixels, id="42", outputs=outputs), path=MODEL + version),
    ):
        assert answer.status_code == 200, answer.text
        assert HEADER not in answer.headers
        said = answer.json()
        assert (said["model_name"], said["model_version"], said["id"]) == ("resnet8-cifar", "1", "42")
        probabilities, classes = said["outputs"]
        assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [1, 10])
        assert {i: round(value, 6) for i, value in enumerate(probabilities["data"])} == expected
        assert (classes["datatype"], classes["shape"]) == ("BYTES", [1, 2])
        assert [one.split(":")[1:] for one in classes["data"]] == [
            [str(each["class_id"]), each["label"]] for each in classified["predictions"][:2]
        ]
        assert "inference;dur=" in answer.headers["server-timing"]


def test_binary_outputs(client: TestClient, photo: bytes) -> None:
    outputs = [{"name": "logits"}, {"name": "embedding", "parameters": {"binary_data": False}}]
    body, rest = of_files(photo, photo, outputs=outputs, parameters={"binary_data_output": True})
    as_json = infer(client, of_files(photo, photo, outputs=outputs)[0], rest).json()
    answer = infer(client, body, rest)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEADER])
    logits, embedding = json.loads(answer.content[:length])["outputs"]
    raw = answer.content[length:]
    assert logits == {"name": "logits", "datatype": "FP32", "shape": [2, 10], "parameters": {"binary_data_size": 80}}
    assert np.frombuffer(raw, "<f4").tolist() == as_json["outputs"][0]["data"]
    assert embedding == as_json["outputs"][1]


def test_one_output_may_be_binary(client: TestClient, photo: bytes) -> None:
    classes = {"name": "probabilities", "parameters": {"classification": 1, "binary_data": True}}
    answer = infer(client, *of_files(photo, outputs=[{"name": "logits"}, classes]))
    length = int(answer.headers[HEADER])
    logits, said = json.loads(answer.content[:length])["outputs"]
    assert len(logits["data"]) == 10
    raw = answer.content[length:]
    assert said["parameters"] == {"binary_data_size": len(raw)}
    assert struct.unpack("<I", raw[:4]) == (len(raw) - 4,)


def test_a_raw_request(client: TestClient, pixels: np.ndarray) -> None:
    answer = client.post(f"{MODEL}/infer", content=pixels.tobytes(), headers={HEADER: "0"})
    length = int(answer.headers[HEADER])
    outputs = json.loads(answer.content[:length])["outputs"]
    assert [output["name"] for output in outputs] == ["logits", "probabilities", "embedding", "feature_map"]
    assert sum(output["parameters"]["binary_data_size"] for output in outputs) == len(answer.content) - length
    expected = infer(client, of_pixels(pixels, outputs=[{"name": "logits"}])).json()["outputs"][0]["data"]
    assert np.frombuffer(answer.content, "<f4", count=10, offset=length).tolist() == expected
    assert "3071 bytes" in error(
        client.post(f"{MODEL}/infer", content=pixels.tobytes()[1:], headers={HEADER: "0"}), 400
    )


def test_many_numbers_in_json(client: TestClient, photo: bytes) -> None:
    """So many that they are written in pieces."""
    body, rest = of_files(photo, outputs=[{"name": "feature_map"}])
    said = infer(client, body, rest, path="/v2/models/resnet18").json()["outputs"][0]
    answer = infer(client, {**body, "parameters": {"binary_data_output": True}}, rest, path="/v2/models/resnet18")
    raw = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f4")
    assert raw.size == np.prod(said["shape"]) > 2**14
    np.testing.assert_array_equal(np.array(said["data"], np.float32), raw)


def test_a_bad_image_among_good_ones(client: TestClient, photo: bytes) -> None:
    said = error(infer(client, *of_files(photo, photo[:1000])), 400)
    assert said.startswith("image 1 of the request: The image ends before its last pixel")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v2/models/resnet9", 404, "resnet9"),
        ("GET", f"{MODEL}/versions/2", 404, "resnet8-cifar@2"),
        ("GET", f"{MODEL}/versions/2/ready", 404, "resnet8-cifar@2"),
        ("POST", "/v2/models/resnet9/infer", 404, "resnet9"),
        ("POST", f"{MODEL}/versions/x/infer", 404, "resnet8-cifar@x"),
        ("GET", "/v2/nothing", 404, "/v2/nothing"),
        ("GET", f"{MODEL}/infer", 405, "POST"),
        ("POST", "/v2/health/live", 405, "GET"),
    ],
)
def test_errors_have_the_protocols_form(client: TestClient, method: str, path: str, status: int, said: str) -> None:
    response = client.request(method, path)
    assert said in error(response, status)
    assert (status == 405) == ("allow" in response.headers)


def test_other_paths_keep_their_form(client: TestClient) -> None:
    assert client.get("/v22").headers["content-type"] == "application/problem+json"


def test_bodies_that_are_refused(client: TestClient, photo: bytes) -> None:
    path = f"{MODEL}/infer"
    assert "not JSON" in error(client.post(path, content=photo), 400)
    assert "700000 bytes" in error(client.post(path, content=b" " * 700_001), 413)
    assert "gzip" in error(client.post(path, content=b"{}", headers={"content-encoding": "gzip"}), 415)
    assert "more than one header" in error(
        client.post(path, content=b"{}", headers=[(HEADER, "1"), (HEADER, "2")]), 400
    )
    assert "At most 3 images" in error(infer(client, *of_files(*[photo] * 4)), 400)
    assert "300000" in error(infer(client, *of_files(b"x" * 300_001)), 400)
    assert "shared memory" in error(
        infer(
            client,
            {
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"shared_memory_region": "x"}}
                ]
            },
        ),
        501,
    )


def test_deadlines(client: TestClient, photo: bytes) -> None:
    assert "0 ms for the request" in error(infer(client, *of_files(photo, parameters={"timeout": 1})), 503)
    response = client.post(f"{MODEL}/infer", content=b"{}", headers={"x-request-timeout-ms": "soon"})
    assert "milliseconds" in error(response, 400)


def test_requests_are_counted(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(status: int, problem: str = "") -> float:
        line = f'resnet_requests_total{{model="resnet8-cifar",problem="{problem}",status="{status}"}} '
        lines = client.get("/metrics").text.splitlines()
        return sum(float(each.removeprefix(line)) for each in lines if each.startswith(line))

    kinds: list[tuple[int, str]] = [(200, ""), (400, "not-an-image"), (400, "invalid-argument"), (503, "overloaded")]
    before = [counted(*kind) for kind in kinds]
    infer(client, *of_files(photo))
    infer(client, *of_files(b"no image"))
    infer(client, {})
    with monkeypatch.context() as patch:
        patch.setattr(Room, "wait", 100.0)  # refused before the body, for its model all the same
        infer(client, *of_files(photo))
    assert [counted(*kind) for kind in kinds] == [number + 1 for number in before]


@pytest.fixture
def guarded(tiny_dir: Path, tmp_path: Path) -> Iterator[TestClient]:
    """Behind keys."""
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("user", '"classify"') + entry("prometheus", '"metrics"'))
    settings = Settings.model_validate(
        {"models_dir": tiny_dir, "models": "resnet8-cifar", "provider": "cpu", "api_keys_file": keys, **LIMITS}
    )
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        yield client


def test_keys(guarded: TestClient, photo: bytes) -> None:
    refused = infer(guarded, *of_files(photo))
    assert "carries no key" in error(refused, 401)
    assert "Bearer" in refused.headers["www-authenticate"]
    metrics = as_bearer("prometheus")
    guarded.headers.update(as_bearer("user"))
    assert infer(guarded, *of_files(photo)).status_code == 200
    assert infer(guarded, *of_files(b"no image")).status_code == 400
    assert "scope metrics" in error(guarded.get(f"{MODEL}/stats"), 403)
    assert guarded.get(MODEL).status_code == 200
    told = guarded.get("/metrics", headers=metrics).text
    for status in (200, 400):
        assert f'resnet_key_requests_total{{key="user",status="{status}"}} 1.0' in told
