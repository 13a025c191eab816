"""Clients of Triton, KServe and OpenVINO Model Server, unmodified: only the address is this service's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.http import aio as triton_aio
from tritonclient.utils import InferenceServerException

from service.runtime.images.decoding import decode
from service.runtime.model_folder import read_card
from tests.support.processes import Service

pytestmark = pytest.mark.e2e

MODEL = "resnet8-cifar"
KSERVE = Path(__file__).parent / "kserve_client.py"


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one process", "workers"])
def service(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    with Service(models_dir, log, models=MODEL, provider="cpu", max_batch=2, workers=request.param) as started:
        yield started


@pytest.fixture(scope="module")
def pixels(models_dir: Path, photo: bytes) -> np.ndarray:
    """uint8 (1, 3, 32, 32): what the network sees of the photo."""
    return decode(photo, read_card(models_dir / MODEL / "1").preprocessing, max_pixels=10**9).pixels[None]


@pytest.fixture(scope="module")
def expected(service: Service, photo: bytes) -> dict[int, float]:
    """What /classify answers: probability by class, best first."""
    (image,) = service.classify(photo, "?top_k=10").json()["images"]
    return {each["class_id"]: each["probability"] for each in image["predictions"]}


def rounded(row: Any) -> dict[int, float]:
    return {index: round(float(value), 6) for index, value in enumerate(row)}


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        yield client


def of_pixels(pixels: np.ndarray, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def of_files(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def test_triton_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("resnet9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, 3, 32, 32]
    config = client.get_model_config(MODEL)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [3, 32, 32]}]
    assert config["max_batch_size"] == 32
    assert client.get_model_repository_index() == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary_input", [False, True])
@pytest.mark.parametrize("binary_output", [False, True])
def test_triton_pixels(
    client: triton.InferenceServerClient,
    pixels: np.ndarray,
    expected: dict[int, float],
    binary_input: bool,
    binary_output: bool,
) -> None:
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_output) for name in ("probabilities", "feature_map")
    ]
    both = np.concatenate([pixels, pixels])
    result = client.infer(MODEL, [of_pixels(both, binary=binary_input)], outputs=outputs, request_id="7")
    assert result.get_response()["id"] == "7"
    assert [rounded(row) for row in result.as_numpy("probabilities")] == [dict(sorted(expected.items()))] * 2
    assert result.as_numpy("feature_map").shape == (2, 64, 8, 8)


def test_triton_files_and_all_outputs(
    client: triton.InferenceServerClient, photo: bytes, expected: dict[int, float]
) -> None:
    result = client.infer(MODEL, [of_files(photo)], model_version="1", priority=1, timeout=60_000_000)
    assert rounded(result.as_numpy("probabilities")[0]) == dict(sorted(expected.items()))
    embedding, feature_map = result.as_numpy("embedding"), result.as_numpy("feature_map")
    np.testing.assert_allclose(embedding, feature_map.mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_triton_classification(
    client: triton.InferenceServerClient, photo: bytes, expected: dict[int, float], binary: bool
) -> None:
    output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    (row,) = client.infer(MODEL, [of_files(photo)], outputs=[output]).as_numpy("probabilities")
    said = [(one.decode() if isinstance(one, bytes) else one).split(":") for one in row]
    assert [(int(index), float(value)) for value, index, _label in said] == list(expected.items())[:3]


def test_triton_errors(client: triton.InferenceServerClient, photo: bytes) -> None:
    for inputs, model, status, message in (
        ([of_files(photo, b"x")], MODEL, "400", "image 1 of the request"),
        ([of_files(photo)], "resnet9", "404", "resnet9"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(model, inputs)
        assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match="ms for the request") as caught:
        client.infer(MODEL, [of_files(photo)], timeout=1)
    assert caught.value.status() == "503"
    region = triton.InferInput("image", [1], "BYTES")
    region.set_shared_memory("region", 10)
    with pytest.raises(InferenceServerException, match="shared memory") as caught:
        client.infer(MODEL, [region])
    assert caught.value.status() == "501"


def test_triton_statistics(client: triton.InferenceServerClient, photo: bytes) -> None:
    def count() -> int:
        (stats,) = client.get_inference_statistics(MODEL)["model_stats"]
        return int(stats["inference_stats"]["success"]["count"])

    before = count()
    client.infer(MODEL, [of_files(photo, photo)])
    assert count() == before + 2
    assert len(client.get_inference_statistics()["model_stats"]) == 1


def test_triton_several_at_once(service: Service, photo: bytes, expected: dict[int, float]) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}", concurrency=4) as client:
        pending = [client.async_infer(MODEL, [of_files(photo)]) for _ in range(8)]
        for one in pending:
            assert rounded(one.get_result().as_numpy("probabilities")[0]) == dict(sorted(expected.items()))


def test_triton_asyncio(service: Service, photo: bytes, pixels: np.ndarray, expected: dict[int, float]) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
            assert await client.is_server_ready()
            for tensor in (of_files(photo), of_pixels(pixels, binary=True), of_pixels(pixels, binary=False)):
                result = await client.infer(MODEL, [tensor])
                assert rounded(result.as_numpy("probabilities")[0]) == dict(sorted(expected.items()))

    asyncio.run(ask())


@pytest.mark.parametrize("sizes", [True, False])
def test_openvino_model_server(service: Service, photo: bytes, expected: dict[int, float], sizes: bool) -> None:
    """As its samples send files: one after the other, with their sizes in words; or a single one without a size."""
    files = [photo, photo] if sizes else [photo]
    parameters = {"binary_data_size": ",".join(str(len(file)) for file in files)} if sizes else {}
    image = {"name": "image", "shape": [len(files)], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [image], "outputs": [{"name": "probabilities"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = service.post(f"/v2/models/{MODEL}/infer", content=head + b"".join(files), headers=headers)
    (output,) = answer.json()["outputs"]
    rows = np.array(output["data"]).reshape(output["shape"])
    assert [rounded(row) for row in rows] == [dict(sorted(expected.items()))] * len(files)


def test_kserve(service: Service, photo: bytes, pixels: np.ndarray, expected: dict[int, float], tmp_path: Path) -> None:
    """Its client needs an older protobuf than ours: in an environment of its own, whose Python KSERVE_PYTHON names."""
    python = os.environ.get("KSERVE_PYTHON")
    if python is None:
        pytest.skip("KSERVE_PYTHON names no Python that has kserve")
    (tmp_path / "photo.jpg").write_bytes(photo)
    np.save(tmp_path / "pixels.npy", pixels)
    done = subprocess.run(
        [python, str(KSERVE), service.url, MODEL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 3
    assert [rounded(answer) for answer in answers] == [dict(sorted(expected.items()))] * 3
