"""`POST /classify`: every way to ask, every way to ask wrongly."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.admission import Room
from service.app import create_app
from service.runtime.model_card import Architecture
from service.settings import Settings
from tests.service.api.client import form, problem
from tests.service.api.conftest import LIMITS
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until_ready


@pytest.fixture(autouse=True)
def _served_afterwards(client: TestClient, photo: bytes) -> Iterator[None]:
    """Whatever a test did, the next request is served."""
    yield
    assert client.post("/classify", files=form(photo)).status_code == 200


def test_a_form_and_a_raw_body_give_the_same_answer(client: TestClient, photo: bytes) -> None:
    by_form = client.post("/classify", files=form(photo))
    raw = client.post("/classify", content=photo, headers={"content-type": "image/jpeg"})
    assert by_form.status_code == raw.status_code == 200
    image = by_form.json()["images"][0]
    assert image["file"] == "0.jpg"
    assert raw.json()["images"][0] == {key: value for key, value in image.items() if key != "file"}
    size = Image.open(io.BytesIO(photo)).size
    assert (image["width"], image["height"]) == size
    assert {key: value for key, value in raw.json().items() if key != "images"} == {
        "model": "resnet18",
        "depth": 18,
        "version": 1,
        "provider": "cpu",
        "precision": "fp32",
    }
    probabilities = [prediction["probability"] for prediction in image["predictions"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/webp", "IMAGE/JPEG; charset=binary"])
def test_raw_bodies_of_every_image_type(client: TestClient, photo: bytes, media_type: str) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, media_type.partition("/")[2].partition(";")[0])
    response = client.post("/classify", content=buffer.getvalue(), headers={"content-type": media_type})
    assert response.status_code == 200
    assert response.json()["images"][0]["predictions"]


def test_many_images_in_their_order(client: TestClient, photo: bytes) -> None:
    small = io.BytesIO()
    Image.new("RGB", (40, 30), "blue").save(small, "PNG")
    images = client.post("/classify?top_k=1", files=form(photo, small.getvalue(), photo)).json()["images"]
    assert [image["file"] for image in images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert (images[1]["width"], images[1]["height"]) == (40, 30)
    assert images[0]["predictions"] == images[2]["predictions"]


def test_one_bad_image_among_many_is_an_error_for_it_alone(client: TestClient, photo: bytes) -> None:
    response = client.post("/classify?top_k=1", files=form(photo, photo[:3000], photo))
    assert response.status_code == 200
    first, bad, last = response.json()["images"]
    assert first["predictions"] == last["predictions"]
    assert "predictions" not in bad
    assert (bad["error"]["type"], bad["error"]["status"]) == ("/problems/truncated-image", 422)


def test_when_all_of_many_are_bad_each_says_why(client: TestClient) -> None:
    response = client.post("/classify", files=form(b"no", b""))
    assert response.status_code == 200
    assert [image["error"]["type"] for image in response.json()["images"]] == [
        "/problems/not-an-image",
        "/problems/empty-image",
    ]
    assert "server-timing" not in response.headers


def test_by_name_and_by_depth(client: TestClient, photo: bytes) -> None:
    for query in ("model=resnet8-cifar", "depth=8", "depth=8&model=resnet8-cifar"):
        answer = client.post(f"/classify?{query}&top_k=10", files=form(photo)).json()
        assert (answer["model"], answer["depth"]) == ("resnet8-cifar", 8)
        assert sum(p["probability"] for p in answer["images"][0]["predictions"]) == pytest.approx(1, abs=1e-4)


def test_server_timing(client: TestClient, photo: bytes) -> None:
    header = client.post("/classify", files=form(photo, photo)).headers["server-timing"]
    found = re.fullmatch(
        r"decode;dur=([\d.]+), queue;dur=([\d.]+), inference;dur=([\d.]+), batch;desc=\"(\d+)\", total;dur=([\d.]+)",
        header,
    )
    assert found, header
    assert float(found[5]) >= float(found[3]) > 0
    assert 1 <= int(found[4]) <= 2


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"", 400, "empty-image"),
        (b"certainly no image", 422, "not-an-image"),
        (b"GIF89a" + bytes(100), 415, "unsupported-image-format"),
        (bytes(LIMITS["max_image_bytes"] + 1), 413, "image-too-large"),
    ],
)
def test_bad_images(client: TestClient, data: bytes, status: int, slug: str) -> None:
    problem(client.post("/classify", files=form(data)), status, slug)
    problem(client.post("/classify", content=data, headers={"content-type": "image/jpeg"}), status, slug)


def test_truncated(client: TestClient, photo: bytes) -> None:
    document = problem(client.post("/classify", files=form(photo[:3000])), 422, "truncated-image")
    assert document["received"] == 3000


def test_too_many_pixels(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.new("L", (1001, 1000)).save(buffer, "PNG")
    document = problem(client.post("/classify", files=form(buffer.getvalue())), 413, "too-many-pixels")
    assert (document["width"], document["height"], document["max_pixels"]) == (1001, 1000, 1_000_000)


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(0, total, 10_000):
        yield bytes(10_000)


def test_limits_hold_for_streamed_bodies_without_a_length(client: TestClient) -> None:
    response = client.post("/classify", content=chunks(400_000), headers={"content-type": "image/jpeg"})
    assert "content-length" not in response.request.headers
    problem(response, 413, "image-too-large")
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield start
        yield from chunks(800_000)

    response = client.post("/classify", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    problem(response, 413, "request-too-large")


def test_a_request_that_declares_too_many_bytes_is_refused_unread(client: TestClient, photo: bytes) -> None:
    big = bytes(250_000)
    document = problem(client.post("/classify", files=form(photo, big, big, big)), 413, "request-too-large")
    assert document["max_bytes"] == LIMITS["max_request_bytes"]


def test_too_many_images(client: TestClient, photo: bytes) -> None:
    document = problem(client.post("/classify", files=form(*[photo] * 4)), 413, "too-many-images")
    assert document["max_images"] == 3


def test_other_content_types(client: TestClient, photo: bytes) -> None:
    for content_type in ("application/xml", "text/html", "multipart/mixed"):
        response = client.post("/classify", content=photo, headers={"content-type": content_type})
        assert problem(response, 415, "unsupported-media-type")["content_type"] == content_type
    problem(client.post("/classify"), 400, "empty-image")


def test_a_file_name_in_the_files_place(client: TestClient) -> None:
    """What `curl -F file=photo.jpg` sends, without the @."""
    headers = {"content-type": "multipart/form-data; boundary=x"}
    as_text = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nphoto.jpg\r\n--x--\r\n'
    document = problem(client.post("/classify", content=as_text, headers=headers), 422, "file-name-as-image")
    assert document["name"] == "photo.jpg"
    assert "with the @" in str(document["remedy"])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n"),
    ],
)
def test_malformed_forms(client: TestClient, content_type: str, body: bytes) -> None:
    problem(client.post("/classify", content=body, headers={"content-type": content_type}), 400, "malformed-request")


def test_every_class_can_be_asked_for(client: TestClient, photo: bytes) -> None:
    images = client.post("/classify?top_k=1000", files=form(photo)).json()["images"]
    assert {prediction["class_id"] for prediction in images[0]["predictions"]} == set(range(1000))


def test_a_model_with_fewer_classes_than_the_default_answers_with_all_of_them(tmp_path: Path, photo: bytes) -> None:
    publish_tiny(Architecture(depth=8, family="cifar", shortcut="A", num_classes=2), tmp_path)
    with TestClient(create_app(Settings(models_dir=tmp_path, provider="cpu", max_batch=1))) as client:
        until_ready(client)
        assert len(client.post("/classify", files=form(photo)).json()["images"][0]["predictions"]) == 2


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-7", "unicode_escape", "nonsense"])
def test_the_client_does_not_choose_the_codec(client: TestClient, photo: bytes, charset: str) -> None:
    head = '--x\r\nContent-Disposition: form-data; name="file"; filename="+2AA-\\ud800"\r\n\r\n'
    body = head.encode() + photo + b"\r\n--x--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = client.post("/classify", content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["images"][0]["file"] == "+2AA-\\ud800"


def test_a_form_may_name_a_model_that_is_idle(tiny_dir: Path, photo: bytes) -> None:
    """Its fields are known only once it has been read, so the queue of the default model does not refuse it."""
    settings = Settings(models_dir=tiny_dir, provider="cpu", max_batch=1, default_model="resnet18", target_wait_ms=1)
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Room, "wait", property(lambda room: 9.0 if room.model == "resnet18" else 0.0))
            for query, data, status in (
                ("", {"model": "resnet8-cifar"}, 200),
                ("", {}, 503),
                ("?model=resnet18", {"top_k": "1"}, 503),
                ("?model=resnet8-cifar", {}, 200),
            ):
                response = client.post(f"/classify{query}", files={"file": photo}, data=data)
                assert response.status_code == status
