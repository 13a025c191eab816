"""`POST /explain`: why an image gets its class."""

from __future__ import annotations

import email
import email.policy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.app import create_app
from service.runtime.model_folder import CLASSIFIER_FILE
from service.settings import Settings
from tests.service.api.client import form, problem
from tests.service.api.test_preview import sample
from tests.support.folders import copied
from tests.support.waiting import until_ready


@pytest.fixture(autouse=True)
def _nothing_is_left(client: TestClient) -> Iterator[None]:
    yield
    assert sample(client, 'resnet_images_in_service{model="resnet18"}') == 0
    assert sample(client, "resnet_request_bytes") == 0


def explain(client: TestClient, photo: bytes, query: str = "") -> dict[str, Any]:
    response = client.post(f"/explain{query}", content=photo)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def test_the_most_probable_class(client: TestClient, photo: bytes) -> None:
    document = explain(client, photo)
    (best,) = client.post("/classify?top_k=1", content=photo).json()["images"][0]["predictions"]
    (explanation,) = document["explanations"]
    assert {name: explanation[name] for name in best} == best
    assert np.array(explanation["map"]).shape == (7, 7)
    assert (document["model"], document["version"], document["provider"]) == ("resnet18", 1, "cpu")
    image = document["image"]
    width, height = Image.open(io.BytesIO(photo)).size
    assert (image["width"], image["height"]) == (width, height)
    x, y, half = width / 2, height / 2, 224 * min(width, height) / 256 / 2  # 224 of 256 pixels, in the middle
    np.testing.assert_allclose(image["box"], [x - half, y - half, x + half, y + half], atol=1)


def test_the_maps_of_all_classes_add_up_to_the_answer(client: TestClient, photo: bytes) -> None:
    document = explain(client, photo, "?model=resnet8-cifar&top_k=10")
    found = document["explanations"]
    logits = np.array([explanation["logit"] for explanation in found])
    sums = [np.mean(explanation["map"]) + explanation["bias"] for explanation in found]
    np.testing.assert_allclose(sums, logits, atol=1e-5 * np.ptp(logits) + 2e-6)  # six decimals
    softmax = np.exp(logits - logits.max())
    np.testing.assert_allclose([e["probability"] for e in found], softmax / softmax.sum(), atol=1e-5)
    assert sorted(explanation["class_id"] for explanation in found) == list(range(10))


@pytest.mark.parametrize("classes", ["3,tench", " 0 , tiger shark", "3,0,tench"])
def test_the_classes_that_were_asked_for_the_most_probable_first(
    client: TestClient, photo: bytes, classes: str
) -> None:
    response = client.post("/explain", params={"classes": classes}, content=photo)
    explanations = response.json()["explanations"]
    assert {explanation["class_id"] for explanation in explanations} == {0, 3}
    probabilities = [explanation["probability"] for explanation in explanations]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_picture(client: TestClient, photo: bytes) -> None:
    response = client.post("/explain?format=png&classes=7", content=photo)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-model"] == "resnet18@1"
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.size, picture.mode) == (Image.open(io.BytesIO(photo)).size, "RGB")


def test_both_in_a_form(client: TestClient, photo: bytes) -> None:
    response = client.post("/explain?format=multipart&top_k=2", files=form(photo))
    header = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(header + response.content, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    names = [part["content-disposition"].params["name"] for part in parts]
    assert names == ["explanation", "overlay", "overlay"]
    document = json.loads(parts[0].get_content())
    ids = [explanation["class_id"] for explanation in document["explanations"]]
    assert document["image"]["file"] == "0.jpg"
    assert [part.get_filename() for part in parts[1:]] == [f"class-{class_id}.png" for class_id in ids]
    alone = client.post(f"/explain?format=png&classes={ids[0]}", content=photo)
    one, other = (np.asarray(Image.open(io.BytesIO(part.get_content())), float) for part in parts[1:])
    assert np.abs(one - np.asarray(Image.open(io.BytesIO(alone.content)), float)).mean() < np.abs(one - other).mean()


def test_more_pictures_than_memory_ever_holds(client: TestClient, photo: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (900, 900)).save(file, "PNG")
    query = "/explain?format=multipart&top_k=1000"
    response = client.post(query, content=file.getvalue())
    found = problem(response, 413, "request-needs-too-much-memory")
    assert "Retry-After" not in response.headers
    assert found["bytes"] > 1000 * 3 * 900**2 > found["max_bytes"]
    small = io.BytesIO()
    Image.new("RGB", (40, 30)).save(small, "PNG")
    assert client.post(query, content=small.getvalue()).content.count(b"Content-Type: image/png") == 1000


def test_wrong_requests(client: TestClient, photo: bytes) -> None:
    several = problem(client.post("/explain?format=png&top_k=2", content=photo), 422, "invalid-parameter")
    assert several["detail"].endswith("a PNG shows one class, and the request asks for 2: use multipart.")
    problem(client.post("/explain", files=form(photo, photo)), 400, "several-images")
    unknown = problem(client.post("/explain?classes=zebra crossing", content=photo), 422, "invalid-parameter")
    assert unknown["detail"].startswith("classes is 'zebra crossing': resnet18 has no class 'zebra crossing'")
    problem(client.post("/explain?format=svg", content=photo), 422, "invalid-parameter")
    for picture in ("", "&format=png"):
        problem(client.post(f"/explain?classes=1{picture}", content=photo[:5000]), 422, "truncated-image")


@pytest.mark.parametrize("published", ["missing", "older"])
def test_a_version_without_its_last_layer_is_classified_and_not_explained(
    tiny_dir: Path, tmp_path: Path, photo: bytes, published: str
) -> None:
    folder = copied(tiny_dir / "resnet18" / "1", tmp_path / "resnet18" / "1")
    (folder / CLASSIFIER_FILE).unlink()
    if published == "older":
        card = json.loads((folder / "card.json").read_text())
        del card["classifier_sha256"]
        (folder / "card.json").write_text(json.dumps(card))
    settings = Settings(models_dir=tmp_path, provider="cpu", max_batch=2)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        until_ready(client)
        assert client.post("/classify", content=photo).status_code == 200
        document = problem(client.post("/explain", content=photo), 422, "not-explainable")
        assert document["detail"].startswith("resnet18@1 cannot be explained: it")
        assert str(tmp_path) not in str(document)
