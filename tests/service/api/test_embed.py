"""`POST /embed`: images as vectors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.api.embed import normalized, to_binary
from service.runtime.images.decoding import decode
from service.runtime.model_folder import read_card
from tests.service.api.client import as_file, form, problem
from tests.service.runtime.engines import load


@pytest.fixture
def expected(tiny_dir: Path, photo: bytes) -> np.ndarray:
    """The embedding of the photograph by `resnet18`, float32 (512,)."""
    folder = tiny_dir / "resnet18" / "1"
    pixels = decode(photo, read_card(folder).preprocessing, max_pixels=10**6).pixels
    result: np.ndarray = load(folder).infer(pixels[None], ("embedding",))["embedding"][0]
    return result


def test_json(client: TestClient, photo: bytes, expected: np.ndarray) -> None:
    response = client.post("/embed", files=form(photo, photo))
    document = response.json()
    assert (document["model"], document["depth"], document["version"]) == ("resnet18", 18, 1)
    assert (document["provider"], document["precision"]) == ("cpu", "fp32")
    assert (document["dimensions"], document["normalized"]) == (512, False)
    assert [image["file"] for image in document["images"]] == ["0.jpg", "1.jpg"]
    for image in document["images"]:
        assert (image["width"], image["height"]) == Image.open(io.BytesIO(photo)).size
        np.testing.assert_allclose(image["embedding"], expected, atol=1e-5)
    assert response.headers["x-model"] == "resnet18@1"
    assert "inference;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize(("kind", "dtype"), [("float32", "<f4"), ("float16", "<f2")])
def test_raw_numbers(client: TestClient, photo: bytes, expected: np.ndarray, kind: str, dtype: str) -> None:
    response = client.post(f"/embed?format={kind}", files=form(photo, as_file(photo, "png")))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-embedding-shape"] == "2, 512"
    rows = np.frombuffer(response.content, dtype).reshape(2, 512)
    np.testing.assert_allclose(rows[0], expected, rtol=1e-3, atol=1e-4)


def test_a_numpy_file(client: TestClient, photo: bytes, expected: np.ndarray) -> None:
    response = client.post("/embed?format=npy&normalize=true", content=photo)
    rows = np.load(io.BytesIO(response.content))
    assert (rows.shape, rows.dtype) == ((1, 512), np.float32)
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_the_form_may_say_what_the_query_says(client: TestClient, photo: bytes) -> None:
    by_form = client.post("/embed", files=form(photo), data={"model": "resnet8-cifar", "normalize": "true"}).json()
    assert (by_form["model"], by_form["dimensions"], by_form["normalized"]) == ("resnet8-cifar", 64, True)
    assert np.linalg.norm(by_form["images"][0]["embedding"]) == pytest.approx(1, abs=1e-4)


def test_a_broken_image_is_an_error_for_itself_in_json_and_for_all_in_numbers(client: TestClient, photo: bytes) -> None:
    files = form(photo, photo[:5000], photo)
    images = client.post("/embed", files=files).json()["images"]
    assert [set(image) - {"file", "width", "height"} for image in images] == [{"embedding"}, {"error"}, {"embedding"}]
    assert images[1]["error"]["type"] == "/problems/truncated-image"
    assert problem(client.post("/embed?format=npy", files=files), 422, "truncated-image")["image"] == 1
    assert "image" not in problem(client.post("/embed?format=npy", content=photo[:5000]), 422, "truncated-image")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("normalize=yes", "normalize is 'yes': give one of false, true."),
        ("format=csv", "format is 'csv': give one of json, npy, float32, float16."),
    ],
)
def test_wrong_values(client: TestClient, photo: bytes, query: str, detail: str) -> None:
    assert problem(client.post(f"/embed?{query}", content=photo), 422, "invalid-parameter")["detail"] == detail


def test_parameters_of_other_calls_are_unknown(client: TestClient, photo: bytes) -> None:
    assert "normalize" in problem(client.post("/embed?top_k=3", content=photo), 422, "unknown-parameter")["remedy"]


def test_a_vector_of_zeros_has_no_direction() -> None:
    rows = normalized(np.array([[0, 0], [3, 4]], np.float32))
    np.testing.assert_allclose(rows, [[0, 0], [0.6, 0.8]])


def test_float16_has_an_end() -> None:
    assert np.frombuffer(to_binary(np.array([[1e6, 1]], np.float32), "float16"), "<f2").tolist() == [np.inf, 1]
