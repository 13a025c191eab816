"""Multipart forms: whole, damaged and unusual ones."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.api.forms import MAX_PREAMBLE, read_form
from service.errors import RequestFault
from tests.fuzz.forms import result_of
from tests.service.api.client import END, FORM, UNFILLED, as_file, part, problem, raw, send
from tests.support.mutations import CHANGES, CUTS, changed, pieces, tried


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ('; filename="a.jpg"', "a.jpg"),
        ("; filename*=UTF-8''na%C3%AFve.jpg", "na\u00efve.jpg"),
        ("; filename*=utf-8'en'a%20b.jpg", "a b.jpg"),
        # of .NET's MultipartFormDataContent, of Spring's WebClient, of Apache's HttpClient 5
        ("; filename=\"=?utf-8?B?bmHDr3ZlLmpwZw==?=\"; filename*=utf-8''na%C3%AFve.jpg", "na\u00efve.jpg"),
        ("; filename=\"=?UTF-8?Q?na=C3=AFve.jpg?=\"; filename*=UTF-8''na%C3%AFve.jpg", "na\u00efve.jpg"),
        ('; filename="na?ve.jpg"; filename*="UTF-8\'\'na%C3%AFve.jpg"', "na\u00efve.jpg"),
        ("; filename*=UTF-8''na%C3%AFve.jpg; filename=\"naive.jpg\"", "na\u00efve.jpg"),
        ('; filename="na\u00efve.jpg"', "na\u00efve.jpg"),
        ("; filename=\"a; filename*=utf-8''b\"", "a; filename*=utf-8''b"),
        ('; filename="a.jpg"; filename*=b', "a.jpg"),
        (
            '; filename="100%25.jpg"',
            "100%25.jpg",
        ),  # browsers encode quotes and line ends only, and not the percent sign
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


@pytest.mark.parametrize("cut", [len(END), len(END) + 20, 5, 3])
def test_a_form_without_its_closing_boundary_is_refused(client: TestClient, photo: bytes, cut: int) -> None:
    whole = part("file", photo, '; filename="a"') + part("file", photo, '; filename="b"') + END
    response = client.post("/classify", content=whole[:-cut], headers=FORM)
    assert "before its closing boundary" in problem(response, 400, "malformed-request")["detail"]


def test_the_line_end_after_the_closing_boundary_may_be_missing(client: TestClient, photo: bytes) -> None:
    assert send(client, part("file", photo), end=END[:-2]).status_code == 200


def test_too_many_fields(client: TestClient, photo: bytes) -> None:
    fields = [part(f"field{i}", b"") for i in range(17)]
    assert (
        "more than 16 fields" in problem(send(client, *fields, part("file", photo)), 400, "malformed-request")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"--x\r\n\r\nx\r\n--x--\r\n", "a part has no name: its Content-Disposition is missing or names none"),
        (
            b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n",
            "a part has no name: its Content-Disposition is missing or names none",
        ),
    ],
)
def test_parts_without_a_name(client: TestClient, body: bytes, reason: str) -> None:
    assert reason in problem(client.post("/classify", content=body, headers=FORM), 400, "malformed-request")["detail"]


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


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_base64_may_be_cut_anywhere(client: TestClient, photo: bytes, size: int) -> None:
    body = encoded(base64.encodebytes(photo[:3000]), "base64") + b"--x--\r\n"
    whole = client.post("/classify", content=body, headers=FORM)
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    assert problem(client.post("/classify", content=pieces, headers=FORM), 422, "truncated-image")["received"] == 3000
    assert whole.json()["received"] == 3000


@pytest.mark.parametrize("data", [b"****", b"QUI", b"QUI=QUI=", b"QUI=\r\nQUI=", b"Q===QUJD", b"\xff\xd8\xff\xe0"])
def test_invalid_base64(client: TestClient, data: bytes) -> None:
    document = problem(send(client, encoded(data, "base64")), 400, "malformed-request")
    assert "the part `file` is not valid base64" in document["reason"]


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
        "the part `file` has parts of its own (multipart/mixed), which are not supported: send one part for each image"
    )


def test_unfilled_inputs_are_limited(client: TestClient, photo: bytes) -> None:
    problem(send(client, *[UNFILLED] * 17, part("file", photo)), 400, "malformed-request")


@pytest.mark.parametrize(
    ("kind", "words"), [("JPEG", "a JPEG"), ("PNG", "a PNG"), ("WEBP", "a WebP"), ("GIF", "a file (GIF)")]
)
@pytest.mark.parametrize("content_type", [FORM["content-type"], "multipart/form-data"])
def test_an_image_declared_as_a_form(
    client: TestClient, photo: bytes, kind: str, words: str, content_type: str
) -> None:
    response = client.post("/classify", content=as_file(photo, kind), headers={"content-type": content_type})
    reason = problem(response, 400, "malformed-request")["reason"]
    assert reason.startswith(f"the body is {words}, not a form: let the client write the content type")
    assert (f"send image/{kind.lower()}" in reason) == (kind != "GIF")


def test_a_boundary_unlike_the_one_in_the_content_type(client: TestClient, photo: bytes) -> None:
    body = part("file", photo) + END
    reason = problem(raw(client, body, "multipart/form-data; boundary=yy"), 400, "malformed-request")["reason"]
    assert "names the boundary `yy`, but the body begins with `x`" in reason
    reason = problem(raw(client, body, "multipart/form-data"), 400, "malformed-request")["reason"]
    assert "names no boundary (the body begins with `x`)" in reason


def test_text_before_the_first_boundary_and_after_boundaries(client: TestClient, photo: bytes) -> None:
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
    """Each byte arrives alone."""

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
        (b"", "it is empty"),
        (b"nonsense", "it begins like no known format, not with the boundary `x`"),
        (b'{"file": 1}', "it begins like JSON, not with the boundary `x`"),
        (b"n" * 20_000, "not with the boundary `x`"),
        (b"--x", "it ends before its closing boundary"),
        ((part("file", b"data") + END).replace(b"\r\n", b"\n"), "its lines end in LF instead of CRLF"),
        (
            b'--x\r\nContent-Disposition: form-data;\r\n name="file"\r\n\r\ndata\r\n--x--\r\n',
            "a header of a part continues on a second line",
        ),
        (
            b'--x\r\nContent-Disposition: form-data;\r\n\tname="file"\r\n\r\ndata\r\n--x--\r\n',
            "a header of a part continues on a second line",
        ),
        (b"--x\r\nContent-Disposition: a\rb", "a header line of a part does not end in CRLF"),
        (b"--x\r\n(a): b\r\n\r\n", "invalid characters in its name"),
        (b"--x\r\n: b\r\n\r\n", "a header of a part has no name"),
        (b"--x\r\n" + b"A: b\r\n" * 9, "a part has too many headers"),
        (b"--x\r\nA: " + b"b" * 5000, "a header of a part is too long"),
        (part("file", b"data") + b"--x but\r\n", "other text follows a boundary"),
    ],
)
def test_malformed_forms_are_refused_with_the_reason(client: TestClient, body: bytes, reason: str) -> None:
    document = problem(raw(client, body), 400, "malformed-request")
    assert reason in document["reason"]
    assert document["detail"] == f"The multipart body is malformed: {document['reason']}"


def test_a_boundary_that_is_too_long(client: TestClient) -> None:
    response = raw(client, b"--x", f"multipart/form-data; boundary={'x' * 300}")
    assert problem(response, 400, "malformed-request")["reason"] == "its boundary is too long"


PARTS = part("file", b"\x89PNG", '; filename="a.png"') + part("top_k", b"2")
FORMS = {
    "plain": PARTS + END,
    "preamble": b"a preamble\r\n--xy\r\n" + PARTS + END,
    "padded": (PARTS + END).replace(b"--x\r\n", b"--x \t\r\n") + b"an epilogue",
    "base64": encoded(base64.b64encode(b"an image"), "base64") + END,
    "extended name": part("file", b"", "; filename*=utf-8''a%20b") + END,
    "other boundary": (PARTS + END).replace(b"--x", b"--y"),
    "image": b"\xff\xd8\xff\xe0" + PARTS + END,
    "nothing": b"",
}
TYPES = [FORM["content-type"], "multipart/form-data", 'multipart/form-data; boundary="x y"; charset=utf-8']


def outcome(content_type: str, body: list[bytes]) -> object:
    """The parts, or the fault in words."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in body:
            yield piece

    try:
        return result_of(read_form(content_type, chunks(), max_files=2))
    except RequestFault as fault:
        return f"{fault.slug}: {fault}"


@tried(1500)
@given(
    name=st.sampled_from(sorted(FORMS)),
    content_type=st.sampled_from(TYPES),
    changes=st.one_of(st.just([]), CHANGES),
    cuts=CUTS,
)
def test_a_form_is_the_same_however_it_is_cut(
    name: str, content_type: str, changes: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    body = changed(FORMS[name], changes)
    whole = outcome(content_type, [body] if body else [])
    assert outcome(content_type, pieces(body, cuts)) == whole
    assert outcome(content_type, pieces(body, range(len(body)))) == whole


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_preamble_has_the_same_limit_however_it_is_cut(size: int) -> None:
    def parsed(preamble: int) -> object:
        body = b"n" * (preamble - 2) + b"\r\n" + PARTS + END
        return outcome(FORM["content-type"], pieces(body, range(0, len(body), size)))

    longest = MAX_PREAMBLE - len("--x\r\n")
    assert isinstance(parsed(longest), list)
    assert parsed(longest + 1) == (
        "malformed-request: The multipart body is malformed: it begins like no known format, not with the boundary `x`"
    )


def test_a_content_type_without_a_boundary_is_no_empty_boundary() -> None:
    body = (PARTS + END).replace(b"--x", b"--")
    assert "the content type names no boundary" in str(outcome("multipart/form-data", [body]))
