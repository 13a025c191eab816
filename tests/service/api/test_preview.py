"""`POST /preview`: what the network sees."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.admission import Room
from service.app import create_app
from service.logs import ACCESS
from service.runtime.images.decoding import Decoded, decode
from service.runtime.model_folder import read_card
from service.settings import Settings
from tests.service.api.client import as_bearer, as_file, entry, form, problem
from tests.service.runtime.images.pictures import jpeg_with_orientation
from tests.support.waiting import until_ready


@pytest.fixture(autouse=True)
def _served_afterwards(client: TestClient, photo: bytes) -> Iterator[None]:
    """Whatever a test did, the next request is served, and nothing is left in the service."""
    yield
    assert client.post("/preview", files=form(photo)).status_code == 200
    assert sample(client, 'resnet_images_in_service{model="resnet18"}') == 0


def sample(client: TestClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def pixels(png: bytes) -> np.ndarray:
    """uint8 (3, height, width)"""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(("query", "name"), [("", "resnet18"), ("?model=resnet8-cifar@1", "resnet8-cifar")])
def test_the_picture_has_the_pixels_that_the_engine_would_get(
    client: TestClient, tiny_dir: Path, photo: bytes, kind: str, query: str, name: str
) -> None:
    file = as_file(photo, kind)
    by_form = client.post(f"/preview{query}", files=form(file))
    raw = client.post(f"/preview{query}", content=file, headers={"content-type": f"image/{kind}"})
    assert by_form.status_code == raw.status_code == 200
    assert by_form.headers["content-type"] == "image/png"
    assert by_form.content == raw.content
    expected = decode(file, read_card(tiny_dir / name / "1").preprocessing, max_pixels=10**6)
    assert np.array_equal(pixels(raw.content), expected.pixels)
    assert raw.headers["x-model"] == f"{name}@1"


def test_the_headers_say_how_it_was_decoded(client: TestClient) -> None:
    photo = jpeg_with_orientation(Image.new("RGB", (900, 1000), "teal"), 6)
    headers = client.post("/preview?model=resnet8-cifar", content=photo).headers
    assert headers["x-decoded"] == (
        'format="JPEG", width=900, height=1000, mode="RGB", bits=8, transparency=?0, orientation=6, passes=1, '
        "divisor=8, lacks_end=?0"
    )
    timing = re.fullmatch(r"decode;dur=([\d.]+), queue;dur=([\d.]+), total;dur=([\d.]+)", headers["server-timing"])
    assert timing
    assert float(timing[3]) >= float(timing[1]) > 0


def test_the_form_may_name_the_model(client: TestClient, photo: bytes) -> None:
    for data in ({"model": "resnet8-cifar"}, {"depth": "8"}):
        response = client.post("/preview", files=form(photo), data=data)
        assert response.headers["x-model"] == "resnet8-cifar@1"
        assert pixels(response.content).shape == (3, 32, 32)


def test_one_image_at_a_time(client: TestClient, photo: bytes) -> None:
    document = problem(client.post("/preview", files=form(photo, photo)), 400, "several-images")
    assert document["images"] == 2
    assert "one image at a time" in str(document["detail"])


@pytest.mark.parametrize(
    ("query", "data", "status", "slug"),
    [
        ("", b"", 400, "empty-image"),
        ("", b"certainly no image", 422, "not-an-image"),
        ("", b"photo.jpg", 422, "file-name-as-image"),
        ("", bytes(300_001), 413, "image-too-large"),
        ("?model=x", b"x", 404, "unknown-model"),
        ("?depth=x", b"x", 422, "invalid-parameter"),
        ("?top_k=3", b"x", 422, "unknown-parameter"),
    ],
)
def test_problems_are_those_of_a_classification(
    client: TestClient, query: str, data: bytes, status: int, slug: str
) -> None:
    document = problem(client.post(f"/preview{query}", content=data), status, slug)
    if slug == "unknown-parameter":
        assert document["known"] == "model, depth"


def test_nothing_is_computed(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*args: object) -> None:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr("service.local_runner.LocalRunner.submit", submit)
    assert client.post("/preview", content=photo).status_code == 200


def test_it_is_counted_as_what_it_is(client: TestClient, photo: bytes, caplog: pytest.LogCaptureFixture) -> None:
    name = 'resnet_http_request_seconds_count{handler="preview",status="200"}'
    classified = 'resnet_images_total{model="resnet18",outcome="ok"}'
    before = sample(client, name), sample(client, classified)
    caplog.set_level(logging.INFO, ACCESS)
    client.post("/preview", content=photo)
    fields: dict[str, Any] = caplog.records[-1].__dict__["fields"]
    assert (fields["path"], fields["model"], fields["images"]) == ("/preview", "resnet18@1", 1)
    assert (sample(client, name), sample(client, classified)) == (before[0] + 1, before[1])


def test_a_long_queue_refuses_it(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Room, "wait", property(lambda room: 9.0))
        problem(client.post("/preview", content=photo), 503, "overloaded")


def test_it_has_a_deadline(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any, **options: Any) -> Decoded:
        time.sleep(0.3)
        return decode(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("service.pipeline.decode", slow)
        headers = {"x-request-timeout-ms": "100"}
        problem(client.post("/preview", content=photo, headers=headers), 504, "deadline-missed")


def test_it_needs_a_key_that_may_classify(tiny_dir: Path, tmp_path: Path, photo: bytes) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("user", '"classify"') + entry("prometheus", '"metrics"'))
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1, api_keys_file=keys)
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        problem(client.post("/preview", content=photo), 401, "unauthorized")
        problem(client.post("/preview", content=photo, headers=as_bearer("prometheus")), 403, "forbidden")
        assert client.post("/preview", content=photo, headers=as_bearer("user")).status_code == 200


def test_the_document_names_the_picture_and_one_image(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/preview"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"image/png"}
    assert set(operation["responses"]["200"]["headers"]) == {"X-Model", "X-Decoded"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {"model", "depth", "X-Request-Timeout-Ms"}
    form_schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form_schema["properties"]["file"]["maxItems"] == 1
    assert form_schema["patternProperties"].keys() == {"^model$", "^depth$"}
