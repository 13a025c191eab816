"""What clients really send: content types, encodings, fields, and common mistakes. Nothing is silently ignored."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from service.admission import Memory, Permit
from service.api.uploads import read_body
from service.metrics import Metrics
from service.settings import Settings
from tests.service.api.client import END, UNFILLED, as_file, part, problem, send


@pytest.mark.parametrize(
    "content_type",
    ["image/jpg", "image/pjpeg", "application/octet-stream", "application/x-www-form-urlencoded", "image/*", "", "x"],
)
def test_the_bytes_decide_what_a_raw_body_is(client: TestClient, photo: bytes, content_type: str) -> None:
    response = client.post("/classify", content=photo, headers={"content-type": content_type})
    assert response.status_code == 200
    assert "file" not in response.json()["images"][0]


def test_a_body_without_a_type_is_an_image(client: TestClient, photo: bytes) -> None:
    request = client.build_request("POST", "/classify", content=photo)
    assert "content-type" not in request.headers
    assert client.send(request).status_code == 200


@pytest.mark.parametrize("name", ["image", "files[]", "upload", "file[]"])
def test_images_in_one_field_of_another_name(client: TestClient, photo: bytes, name: str) -> None:
    response = send(client, part(name, photo, '; filename="a"'), part(name, photo, '; filename="b"'))
    assert [image["file"] for image in response.json()["images"]] == ["a", "b"]


def test_images_in_two_fields_are_refused_with_their_names(client: TestClient, photo: bytes) -> None:
    response = send(client, part("file", photo, '; filename="a"'), part("mask", photo, '; filename="b"'))
    assert problem(response, 400, "no-image")["found"] == "files in `file`, `mask`"


def test_a_form_without_images_is_refused_with_its_fields(client: TestClient) -> None:
    assert problem(send(client, part("photo", b"x"), part("top_k", b"1")), 400, "no-image")["found"] == (
        "fields `photo`, `top_k`"
    )
    assert problem(send(client), 400, "no-image")["found"] == "nothing"


def test_an_encoded_body_is_refused_with_the_remedy(client: TestClient, photo: bytes) -> None:
    headers = {"content-type": "image/jpeg", "content-encoding": "gzip"}
    document = problem(
        client.post("/classify", content=gzip.compress(photo), headers=headers), 415, "unsupported-encoding"
    )
    assert document["encoding"] == "gzip"
    assert "without Content-Encoding" in document["remedy"]
    identity = headers | {"content-encoding": "identity"}
    assert client.post("/classify", content=photo, headers=identity).status_code == 200


URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_sent_with_curl_d(client: TestClient, photo: bytes, kind: str) -> None:
    whole = as_file(photo, kind)
    assert client.post("/classify", content=whole, headers=URLENCODED).status_code == 200
    stripped = whole.translate(None, b"\r\n\0")
    document = problem(client.post("/classify", content=stripped, headers=URLENCODED), 422, "text-encoded-image")
    assert "--data-binary @FILE" in document["remedy"]
    jpeg = {"content-type": "image/jpeg"}
    assert client.post("/classify", content=stripped, headers=jpeg).json()["type"] != "/problems/text-encoded-image"


def test_a_damaged_file_with_line_ends_keeps_its_own_fault(client: TestClient, photo: bytes) -> None:
    cut = as_file(photo, "PNG")[:-100]
    problem(client.post("/classify", content=cut, headers=URLENCODED), 422, "truncated-image")
    gif = as_file(photo, "GIF").translate(None, b"\r\n\0")
    problem(client.post("/classify", content=gif, headers=URLENCODED), 415, "unsupported-image-format")


@pytest.mark.parametrize("name", ["t.jpg", "docs/images/t.PNG", "C:\\photos\\a b.webp\r\n", "@t.jpeg", "f\u00e9e.heic"])
def test_a_file_name_instead_of_the_file(client: TestClient, name: str) -> None:
    for headers in (URLENCODED, {"content-type": "image/jpeg"}):
        document = problem(client.post("/classify", content=name.encode(), headers=headers), 422, "file-name-as-image")
        assert document["name"] == name.strip().removeprefix("@")
        assert "--data-binary @photo.jpg" in document["remedy"]


@pytest.mark.parametrize("text", ["https://example.com/a.jpg", "t.txt", "a.jpg\nb.jpg", "x" * 300 + ".jpg"])
def test_text_that_is_not_the_name_of_an_image(client: TestClient, text: str) -> None:
    problem(client.post("/classify", content=text, headers={"content-type": "image/jpeg"}), 422, "not-an-image")


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", ""]
)
@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_a_form_under_another_content_type(client: TestClient, photo: bytes, content_type: str, before: bytes) -> None:
    with_type = part("file", photo, '; filename="a"').replace(b"x\r\n", b"x\r\nContent-Type: image/jpeg\r\n", 1)
    by_curl = part("file", photo).replace(b"form-data", b"attachment")
    for form in (part("file", photo), with_type, by_curl):
        response = client.post("/classify", content=before + form + END, headers={"content-type": content_type})
        document = problem(response, 422, "form-as-image")
        assert document["content_type"] == (content_type or "none")
        assert "Let the HTTP client write the content type" in document["remedy"]


def test_empty_file_inputs_are_ignored(client: TestClient, photo: bytes) -> None:
    full = part("file", photo, '; filename="a"')
    for parts in (
        [full, UNFILLED],
        [UNFILLED, full],
        [full, part("image", b"", '; filename=""')],
        [full, *[UNFILLED] * 4],
    ):
        assert [image["file"] for image in send(client, *parts).json()["images"]] == ["a"]
    assert "error" not in send(client, full, UNFILLED).json()["images"][0]


def test_only_empty_file_inputs(client: TestClient) -> None:
    document = problem(send(client, UNFILLED, UNFILLED), 400, "no-image")
    assert document["found"] == "no file chosen in `file`"


def test_an_empty_file_with_a_name_is_an_error(client: TestClient) -> None:
    problem(send(client, part("file", b"", '; filename="a"')), 400, "empty-image")


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ([("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], "Content-Encoding"),
        ([("Content-Type", "image/jpeg"), ("Content-Type", "multipart/form-data; boundary=x")], "Content-Type"),
    ],
)
def test_headers_that_contradict_each_other(
    client: TestClient, photo: bytes, given: list[tuple[str, str]], header: str
) -> None:
    document = problem(client.post("/classify", content=photo, headers=given), 400, "repeated-header")
    assert document["header"] == header
    assert document["values"] == ", ".join(value for _, value in given)


def test_the_same_content_type_twice_is_allowed(client: TestClient, photo: bytes) -> None:
    twice = [("Content-Type", "image/jpeg"), ("Content-Type", "image/jpeg")]
    assert client.post("/classify", content=photo, headers=twice).status_code == 200


def received(pieces: int, size: int, first: bytes = b"") -> tuple[bytes, int]:
    """A raw body that comes in so many pieces of this size, and the most memory that reading it took at a time."""
    left = pieces

    async def receive() -> dict[str, object]:
        nonlocal left
        left -= 1
        body = first or left.to_bytes(4, "big")[-size:]  # new bytes each time
        return {"type": "http.request", "body": body, "more_body": left > 0}

    async def read() -> tuple[bytes, int]:
        request = Request({"type": "http", "headers": []}, receive)
        with Permit(Memory(10**9, Metrics())) as permit:
            tracemalloc.start()
            try:
                body = await read_body(request, Settings(), permit)
                return body.uploads[0].data, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    return asyncio.run(read())


def test_a_body_in_tiny_pieces_takes_the_memory_of_its_bytes() -> None:
    data, most = received(100_000, 2)
    assert data == b"".join(number.to_bytes(4, "big")[-2:] for number in reversed(range(100_000)))
    assert most < 4 * len(data)


def test_a_body_in_one_piece_is_not_copied() -> None:
    piece = bytes(1_000_000)
    data, most = received(1, 0, piece)
    assert data is piece
    assert most < len(piece)
