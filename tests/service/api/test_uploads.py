"""What clients really send: types, forms, fields, encodings; nothing of it is passed over in silence."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image
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


@pytest.mark.parametrize("name", ["csrfmiddlewaretoken", "MAX_FILE_SIZE", "url", "", "layers"])
def test_no_name_is_suggested_that_is_not_near(client: TestClient, photo: bytes, name: str) -> None:
    in_form = send(client, part(name, b"5"), part("file", photo))
    for response in (client.post(f"/classify?{name}=5", content=photo), in_form):
        document = problem(response, 422, "unknown-parameter")
        assert document["remedy"] == "The parameters are model, depth, top_k."
        assert "nearest" not in document


@pytest.mark.parametrize(
    ("name", "meant"), [("TOP_K", "top_k"), ("Top-K", "top_k"), ("modl", "model"), ("deph", "depth")]
)
def test_a_name_that_is_near_is_suggested(client: TestClient, photo: bytes, name: str, meant: str) -> None:
    assert problem(client.post(f"/classify?{name}=1", content=photo), 422, "unknown-parameter")["nearest"] == meant


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


def as_file(photo: bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, kind)
    return buffer.getvalue()


URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_curl_d_makes_of_a_file(client: TestClient, photo: bytes, kind: str) -> None:
    whole = as_file(photo, kind)
    assert client.post("/classify", content=whole, headers=URLENCODED).status_code == 200
    stripped = whole.translate(None, b"\r\n\0")
    document = problem(client.post("/classify", content=stripped, headers=URLENCODED), 422, "text-encoded-image")
    assert "--data-binary @FILE" in document["remedy"]
    jpeg = {"content-type": "image/jpeg"}
    assert client.post("/classify", content=stripped, headers=jpeg).json()["type"] != "/problems/text-encoded-image"


def test_what_is_damaged_but_has_line_ends_is_told_its_damage(client: TestClient, photo: bytes) -> None:
    cut = as_file(photo, "PNG")[:-100]
    problem(client.post("/classify", content=cut, headers=URLENCODED), 422, "truncated-image")
    gif = as_file(photo, "GIF").translate(None, b"\r\n\0")
    problem(client.post("/classify", content=gif, headers=URLENCODED), 415, "unsupported-image-format")


@pytest.mark.parametrize("name", ["t.jpg", "docs/images/t.PNG", "C:\\photos\\a b.webp\r\n", "@t.jpeg", "f\u00e9e.heic"])
def test_the_name_of_a_file_in_place_of_its_bytes(client: TestClient, name: str) -> None:
    for headers in (URLENCODED, {"content-type": "image/jpeg"}):
        document = problem(client.post("/classify", content=name.encode(), headers=headers), 422, "file-name-as-image")
        assert document["name"] == name.strip().removeprefix("@")
        assert "--data-binary @photo.jpg" in document["remedy"]


@pytest.mark.parametrize("text", ["https://example.com/a.jpg", "t.txt", "a.jpg\nb.jpg", "x" * 300 + ".jpg"])
def test_what_is_not_the_name_of_an_image(client: TestClient, text: str) -> None:
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
        assert "Leave the content type to the HTTP client" in document["remedy"]


def encoded(photo: bytes, encoding: str) -> bytes:
    head, _, data = part("file", photo, '; filename="a"').partition(b"\r\n\r\n")
    return head + f"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + data


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "binary", "Binary "])
def test_transfer_encodings_that_change_nothing(client: TestClient, photo: bytes, encoding: str) -> None:
    assert send(client, encoded(photo, encoding)).status_code == 200


@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
@pytest.mark.parametrize("name", ["base64", "BASE64"])
def test_parts_in_base64(client: TestClient, photo: bytes, encode: Any, name: str) -> None:
    plain = send(client, part("file", photo, '; filename="a"'))
    response = send(client, encoded(encode(photo).replace(b"\n", b"\r\n"), name))
    assert response.json() == plain.json()


@pytest.mark.parametrize("data", [b"****", b"QUI", b"QUI=QUI=", b"\xff\xd8\xff\xe0"])
def test_base64_that_is_none(client: TestClient, data: bytes) -> None:
    document = problem(send(client, encoded(data, "base64")), 400, "malformed-request")
    assert "the part `file` is not base64" in document["reason"]


def test_base64_within_the_limits(client: TestClient) -> None:
    too_large = base64.b64encode(bytes(300_001))
    assert problem(send(client, encoded(too_large, "base64")), 413, "image-too-large")["bytes"] == 300_001


@pytest.mark.parametrize("encoding", ["quoted-printable", "x-uuencode"])
def test_other_transfer_encodings_are_refused_by_name(client: TestClient, photo: bytes, encoding: str) -> None:
    document = problem(send(client, encoded(photo, encoding)), 400, "malformed-request")
    assert f"Content-Transfer-Encoding {encoding}" in document["reason"]


def test_parts_within_parts(client: TestClient, photo: bytes) -> None:
    inner = b'--y\r\nContent-Disposition: attachment; filename="a.jpg"\r\n\r\n' + photo + b"\r\n--y--"
    nested = part("file", inner).replace(b"\r\n\r\n", b"\r\nContent-Type: Multipart/Mixed; boundary=y\r\n\r\n", 1)
    reason = problem(send(client, nested), 400, "malformed-request")["reason"]
    assert reason == (
        "the part `file` has parts of its own (Multipart/Mixed), which are not taken: send one part for each image"
    )


UNFILLED = part("file", b"", '; filename=""')


def test_file_inputs_that_were_left_empty_are_passed_over(client: TestClient, photo: bytes) -> None:
    full = part("file", photo, '; filename="a"')
    for parts in (
        [full, UNFILLED],
        [UNFILLED, full],
        [full, part("image", b"", '; filename=""')],
        [full, *[UNFILLED] * 4],
    ):
        assert [image["file"] for image in send(client, *parts).json()["images"]] == ["a"]
    assert "error" not in send(client, full, UNFILLED).json()["images"][0]


def test_nothing_but_file_inputs_that_were_left_empty(client: TestClient) -> None:
    document = problem(send(client, UNFILLED, UNFILLED), 400, "no-image")
    assert document["found"] == "no file chosen in `file`"


def test_an_empty_file_with_a_name_is_an_error(client: TestClient) -> None:
    problem(send(client, part("file", b"", '; filename="a"')), 400, "empty-image")


def test_unfilled_inputs_are_not_without_limit(client: TestClient, photo: bytes) -> None:
    problem(send(client, *[UNFILLED] * 17, part("file", photo)), 400, "malformed-request")


@pytest.mark.parametrize(
    ("kind", "words"), [("JPEG", "a JPEG"), ("PNG", "a PNG"), ("WEBP", "a WebP"), ("GIF", "a file (GIF)")]
)
@pytest.mark.parametrize("content_type", [FORM["content-type"], "multipart/form-data"])
def test_an_image_that_is_called_a_form(
    client: TestClient, photo: bytes, kind: str, words: str, content_type: str
) -> None:
    response = client.post("/classify", content=as_file(photo, kind), headers={"content-type": content_type})
    reason = problem(response, 400, "malformed-request")["reason"]
    assert reason.startswith(f"the body is {words}, not a form: leave the content type to the client")
    assert (f"send image/{kind.lower()}" in reason) == (kind != "GIF")


def raw(client: TestClient, body: bytes, content_type: str = FORM["content-type"]) -> httpx.Response:
    response: httpx.Response = client.post("/classify", content=body, headers={"content-type": content_type})
    return response


def test_another_boundary_than_the_content_types(client: TestClient, photo: bytes) -> None:
    body = part("file", photo) + END
    reason = problem(raw(client, body, "multipart/form-data; boundary=yy"), 400, "malformed-request")["reason"]
    assert "names the boundary `yy`, but the body begins with `x`" in reason
    reason = problem(raw(client, body, "multipart/form-data"), 400, "malformed-request")["reason"]
    assert "names no boundary (the body begins with `x`)" in reason


def test_what_stands_before_the_first_boundary_and_behind_boundaries(client: TestClient, photo: bytes) -> None:
    parts = part("top_k", b"2") + part("file", photo)
    preamble = b"This is a message in several parts.\r\n"
    for body in (
        preamble + parts + END,
        b"\r\n" + parts + END,
        preamble + b"--xx is another boundary\r\n" + parts + END,
        (parts + END).replace(b"--x\r\n", b"--x \t\r\n"),
        preamble + (parts + END).replace(b"--x\r\n", b"--x  \r\n"),
        parts + END + b"an epilogue",
    ):
        response = raw(client, body)
        assert response.status_code == 200, response.text
        assert len(response.json()["images"][0]["predictions"]) == 2


def test_a_form_in_the_smallest_pieces() -> None:
    """Every byte of a preamble, of padding and of the rest by itself."""

    async def bytewise(data: bytes) -> AsyncIterator[bytes]:
        for at in range(len(data)):
            yield data[at : at + 1]

    form = part("file", b"one") + part("file", b"\r\n--two")
    for body in (form + END, b"before\r\n" + form + END, (form + END).replace(b"--x\r\n", b"--x \r\n")):
        found = asyncio.run(read_form(FORM["content-type"], bytewise(body), max_files=2))
        assert [part.data for part in found] == [b"one", b"\r\n--two"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it begins like nothing, for it is empty"),
        (b"nonsense", "it begins like no known format, not with the boundary `x`"),
        (b'{"file": 1}', "it begins like JSON, not with the boundary `x`"),
        (b"n" * 20_000, "not with the boundary `x`"),
        (b"--x", "it ends before its closing boundary"),
        ((part("file", b"data") + END).replace(b"\r\n", b"\n"), "its lines end in LF alone"),
        (
            b'--x\r\nContent-Disposition: form-data;\r\n name="file"\r\n\r\ndata\r\n--x--\r\n',
            "a header of a part goes on in a second line",
        ),
        (
            b'--x\r\nContent-Disposition: form-data;\r\n\tname="file"\r\n\r\ndata\r\n--x--\r\n',
            "a header of a part goes on in a second line",
        ),
        (b"--x\r\nContent-Disposition: a\rb", "a line of a part's headers does not end in CRLF"),
        (b"--x\r\n(a): b\r\n\r\n", "characters that no name has"),
        (b"--x\r\n: b\r\n\r\n", "a header of a part has no name"),
        (b"--x\r\n" + b"A: b\r\n" * 9, "a part has too many headers"),
        (b"--x\r\nA: " + b"b" * 5000, "a header of a part is too long"),
        (part("file", b"data") + b"--x but\r\n", "something stands behind a boundary"),
    ],
)
def test_malformed_forms_are_told_why_in_plain_words(client: TestClient, body: bytes, reason: str) -> None:
    document = problem(raw(client, body), 400, "malformed-request")
    assert reason in document["reason"]
    assert document["detail"] == f"The multipart body is malformed: {document['reason']}"


def test_a_boundary_that_is_too_long(client: TestClient) -> None:
    response = raw(client, b"--x", f"multipart/form-data; boundary={'x' * 300}")
    assert problem(response, 400, "malformed-request")["reason"] == "its boundary is too long"


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


def test_the_same_content_type_twice_is_no_contradiction(client: TestClient, photo: bytes) -> None:
    twice = [("Content-Type", "image/jpeg"), ("Content-Type", "image/jpeg")]
    assert client.post("/classify", content=photo, headers=twice).status_code == 200
