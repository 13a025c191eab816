"""The requests to peers and their answers, as far as they can be checked without the peers."""

from __future__ import annotations

import base64
import json
import struct
from email import message_from_bytes
from pathlib import Path

import pytest

from benchmarks.peers import catalogue
from benchmarks.peers.catalogue import HERE, OURS, STUB, Place, peers
from benchmarks.peers.environments import SHARED, shared_pins
from benchmarks.peers.model import MAX_BATCH, WINDOW_S

JPEG = b"\xff\xd8\xff\r\n--\0\xff\xd9"


def test_every_peer_has_a_server_and_pinned_requirements() -> None:
    for name in peers().keys() - {OURS}:
        assert (HERE / name / "server.py").exists()
        lines = (HERE / name / "requirements.txt").read_text().splitlines()
        assert all("==" in line or "<" in line for line in lines), name


def test_our_service_gets_its_precision_and_further_options() -> None:
    place = Place(Path("python"), Path(), [8000], Path("models/resnet50/1"), "int8")
    command = [str(part) for part in peers(["--provider=cpu"])[OURS].command(place)]
    assert command[-2:] == ["--port=8000", "--provider=cpu"]
    assert {"--models-dir=models", "--models=resnet50", "--precision=int8"} <= set(command)


def test_json_bodies_hold_the_image_in_base64() -> None:
    assert base64.b64decode(json.loads(peers()["litserve"].encode(JPEG))["image"]) == JPEG
    (tensor,) = json.loads(peers()["mlserver"].encode(JPEG))["inputs"]
    assert base64.b64decode(tensor["data"][0]) == JPEG


def test_binary_tensors_hold_the_image_behind_a_header_whose_length_is_announced() -> None:
    peer = peers()["triton"]
    body = peer.encode(JPEG)
    end = int(peer.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:end])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(body) - end
    assert body[end:] == struct.pack("<I", len(JPEG)) + JPEG


def test_triton_gets_the_stub_of_its_interpreter_and_a_model_repository(tmp_path: Path) -> None:
    installed = tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / "pytriton" / "tritonserver"
    stub = installed / "python_backend_stubs" / "3.12" / STUB
    for file in (stub, installed / "backends" / "python" / "libtriton_python.so"):
        file.parent.mkdir(parents=True)
        file.touch()
    folder = tmp_path / "place"
    place = Place(tmp_path / "venv" / "bin" / "python", folder, [1, 2, 3], Path("models/resnet50/1"), "fp32")
    command = [str(part) for part in peers()["triton"].command(place)]
    assert {"--http-port=1", f"--model-repository={folder / 'models'}"} <= set(command)
    assert (folder / "backends" / "python" / STUB).exists()
    assert (folder / "models" / "resnet50" / "1" / "model.py").read_text() == (
        HERE / "triton" / "server.py"
    ).read_text()
    config = (folder / "models" / "resnet50" / "config.pbtxt").read_text()
    assert f"max_batch_size: {MAX_BATCH}\n" in config
    assert f"max_queue_delay_microseconds: {round(1e6 * WINDOW_S)} " in config


def test_forms_hold_the_image_unchanged() -> None:
    peer = peers()["bentoml"]
    form = message_from_bytes(f"content-type: {peer.content_type}\r\n\r\n".encode() + peer.encode(JPEG))
    (part,) = list(form.walk())[1:]
    assert part.get_param("name", header="content-disposition") == "images"
    assert JPEG in peer.encode(JPEG)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (OURS, {"images": [{"predictions": [{"class_id": 7}, {"class_id": 1}]}]}),
        ("litserve", {"predictions": [{"class_id": 7}, {"class_id": 1}]}),
        ("bentoml", [[{"class_id": 7}, {"class_id": 1}]]),
        ("mosec", [{"class_id": 7}, {"class_id": 1}]),
        ("mlserver", {"outputs": [{"name": "class_id", "data": [7, 1]}]}),
        ("triton", {"outputs": [{"name": "class_id", "data": [7, 1]}]}),
    ],
)
def test_the_first_class_of_an_answer(name: str, answer: object) -> None:
    assert peers()[name].predicted(answer) == 7


def test_the_engine_is_the_same_in_every_environment() -> None:
    constraints = "# written\nfastapi==1.0\nnumpy==2.4.6\nonnxruntime==1.31.1\n"
    assert shared_pins(constraints) == ["numpy==2.4.6", "onnxruntime==1.31.1"]
    assert shared_pins(constraints, "NumPy==1.26.4  # older\ntriton==1") == ["onnxruntime==1.31.1"]
    pinned = shared_pins(Path("docker/constraints.txt").read_text())
    assert len(pinned) == len(SHARED)


def test_the_version_is_that_of_the_server_which_a_package_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "version", lambda python, package: "0.7.0")
    assert peers()["triton"].version(Path("python")) == "2.51.0 (nvidia-pytriton 0.7.0)"
    assert peers()["litserve"].version(Path("python")) == "0.7.0"
    assert peers()[OURS].version(Path("python")) == "this"
