"""What clients really send: types, forms, fields, encodings; nothing of it is passed over in silence."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.api.forms import read_form

BOUNDARY = "x"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, data: bytes, rest: str = "") -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def send(client: TestClient, *parts: bytes, end: bytes = END, query: str = "") -> httpx.Response:
    response: httpx.Response = client.post(f"/classify{query}", content=b"".join(parts) + end, headers=FORM)
    return response


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["type"]) == (status, f"/problems/{slug}"), document
    return document


@pytest.mark.parametrize(
    "content_type",
    ["image/jpg", "image/pjpeg", "application/octet-stream", "application/x-www-form-urlencoded", "image/*", "", "x"],
)
def test_the_bytes_say_what_a_raw_body_is(client: TestClient, photo: bytes, content_type: str) -> None:
    response = client.post("/classify", content=photo, headers={"content-type": content_type})
    assert response.status_code == 200
    assert "file" not in response.json()["images"][0]


def test_a_body_without_a_type_is_an_image(client: TestClient, photo: bytes) -> None:
    request = client.build_request("POST", "/classify", content=photo)
    assert "content-type" not in request.headers
    assert client.send(request).status_code == 200


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ('; filename="a.jpg"', "a.jpg"),
        ("; filename*=UTF-8''na%C3%AFve.jpg", "na\u00efve.jpg"),
        ("; filename*=utf-8'en'a%20b.jpg", "a b.jpg"),
        ("; filename=\"plain.jpg\"; filename*=UTF-8''na%C3%AFve.jpg", "plain.jpg"),
        ('; filename=""', ""),
        ("", None),  # curl -F 'file=<photo.jpg'
    ],
)
def test_file_names_of_every_kind(client: TestClient, photo: bytes, rest: str, name: str | None) -> None:
    response = send(client, part("file", photo, rest))
    assert response.status_code == 200
    assert response.json()["images"][0].get("file") == name


def test_a_part_without_a_file_name_may_be_large() -> None:
    async def body() -> AsyncIterator[bytes]:
        data = part("file", bytes(3 * 2**20)) + END
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    (found,) = asyncio.run(read_form(FORM["content-type"], body(), max_files=1))
    assert (found.name, found.filename, len(found.data)) == ("file", None, 3 * 2**20)
    assert found.is_file


@pytest.mark.parametrize("name", ["image", "files[]", "upload", "file[]"])
def test_images_in_one_field_of_another_name(client: TestClient, photo: bytes, name: str) -> None:
    response = send(client, part(name, photo, '; filename="a"'), part(name, photo, '; filename="b"'))
    assert [image["file"] for image in response.json()["images"]] == ["a", "b"]


def test_images_in_fields_of_two_names_are_refused_with_what_was_found(client: TestClient, photo: bytes) -> None:
    response = send(client, part("file", photo, '; filename="a"'), part("mask", photo, '; filename="b"'))
    assert problem(response, 400, "no-image")["found"] == "files in `file`, `mask`"


def test_a_form_without_images_lists_what_it_has(client: TestClient) -> None:
    assert problem(send(client, part("photo", b"x"), part("top_k", b"1")), 400, "no-image")["found"] == (
        "fields `photo`, `top_k`"
    )
    assert problem(send(client), 400, "no-image")["found"] == "nothing"


@pytest.mark.parametrize("cut", [len(END), len(END) + 20, 5, 3])
def test_a_form_that_ends_before_its_closing_boundary_is_refused(client: TestClient, photo: bytes, cut: int) -> None:
    whole = part("file", photo, '; filename="a"') + part("file", photo, '; filename="b"') + END
    response = client.post("/classify", content=whole[:-cut], headers=FORM)
    assert "before its closing boundary" in problem(response, 400, "malformed-request")["detail"]


def test_the_line_end_behind_the_closing_boundary_may_be_missing(client: TestClient, photo: bytes) -> None:
    assert send(client, part("file", photo), end=END[:-2]).status_code == 200


def test_parameters_in_a_form_work_as_in_the_query(client: TestClient, photo: bytes) -> None:
    response = send(client, part("model", b"resnet8-cifar"), part("top_k", b"2"), part("file", photo))
    assert response.json()["model"] == "resnet8-cifar"
    assert len(response.json()["images"][0]["predictions"]) == 2
    assert send(client, part("file", photo), part("depth", b"8")).json()["model"] == "resnet8-cifar"
    assert send(client, part("file", photo), part("top_k", b"1"), query="?depth=8").json()["depth"] == 8


@pytest.mark.parametrize(
    ("fields", "query", "status", "slug"),
    [
        ([("model", "nosuch")], "", 404, "unknown-model"),
        ([("top_k", "0")], "", 422, "invalid-parameter"),
        ([("top_k", "x")], "", 422, "invalid-parameter"),
        ([("top_k", "11"), ("depth", "8")], "", 422, "invalid-parameter"),
        ([("top_k", "1")], "?top_k=2", 422, "invalid-parameter"),
        ([("top_k", "1"), ("top_k", "2")], "", 422, "invalid-parameter"),
        ([], "?top_k=1&top_k=2", 422, "invalid-parameter"),
        ([("topk", "1")], "", 422, "unknown-parameter"),
        ([], "?top=1", 422, "unknown-parameter"),
        ([], "?nonsense", 422, "unknown-parameter"),
    ],
)
def test_wrong_parameters_are_refused_wherever_they_are(
    client: TestClient, photo: bytes, fields: list[tuple[str, str]], query: str, status: int, slug: str
) -> None:
    parts = [part(name, value.encode()) for name, value in fields]
    problem(send(client, *parts, part("file", photo), query=query), status, slug)


def test_an_unknown_parameter_is_named_with_the_nearest_known_one(client: TestClient, photo: bytes) -> None:
    document = problem(client.post("/classify?topk=1", content=photo), 422, "unknown-parameter")
    assert (document["parameter"], document["nearest"]) == ("topk", "top_k")
    assert document["remedy"] == "Did you mean `top_k`? The parameters are model, depth, top_k."


def test_the_same_value_twice_is_no_contradiction(client: TestClient, photo: bytes) -> None:
    assert send(client, part("file", photo), part("top_k", b"1"), query="?top_k=1").status_code == 200


def test_empty_parameters_are_none(client: TestClient, photo: bytes) -> None:
    for query in ("?model=", "?depth=&top_k="):
        assert client.post(f"/classify{query}", content=photo).json()["model"] == "resnet18"
    assert send(client, part("file", photo), part("model", b"")).json()["model"] == "resnet18"


def test_an_encoded_body_is_refused_with_what_to_do(client: TestClient, photo: bytes) -> None:
    headers = {"content-type": "image/jpeg", "content-encoding": "gzip"}
    document = problem(
        client.post("/classify", content=gzip.compress(photo), headers=headers), 415, "unsupported-encoding"
    )
    assert document["encoding"] == "gzip"
    assert "without Content-Encoding" in document["remedy"]
    identity = headers | {"content-encoding": "identity"}
    assert client.post("/classify", content=photo, headers=identity).status_code == 200


def test_too_many_fields(client: TestClient, photo: bytes) -> None:
    fields = [part(f"field{i}", b"") for i in range(17)]
    assert (
        "more than 16 fields" in problem(send(client, *fields, part("file", photo)), 400, "malformed-request")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"--x\r\n\r\nx\r\n--x--\r\n", "no Content-Disposition that names it"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n", "no Content-Disposition that names it"),
    ],
)
def test_parts_without_a_name(client: TestClient, body: bytes, reason: str) -> None:
    assert reason in problem(client.post("/classify", content=body, headers=FORM), 400, "malformed-request")["detail"]
