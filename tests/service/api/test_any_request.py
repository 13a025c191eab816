"""Whatever a request to `/classify` holds, the answer is predictions, or a problem that blames the client."""

from __future__ import annotations

import io
import json
from base64 import b64encode

from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from tests.service.api.asgi import Headers, answer, scope_of
from tests.service.api.client import BOUNDARY, END, part
from tests.support.mutations import CHANGES, CUTS, changed, pieces, tried


def tiny_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


TINY_PNG = tiny_png()
BODIES = {
    "form": part("file", TINY_PNG, '; filename="a.png"') + part("top_k", b"2") + END,
    "images": part("pictures", TINY_PNG, '; filename="a.png"') * 3 + part("model", b"resnet8-cifar") + END,
    "image": TINY_PNG,
    "base64": part("file", b"iVBORw0KGgo=").replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1)
    + END,
    "name": b"@photo.jpg",
    "json": json.dumps(
        {"images": [b64encode(TINY_PNG).decode(), {"b64": "data:image/png;base64,iVBORw0KGgo="}], "top_k": 2}
    ).encode(),
}
QUERY = b"model=resnet8-cifar&depth=8&top_k=3"
TYPES = [
    *(b"multipart/form-data; boundary=" + BOUNDARY.encode(), b"image/png", b"application/x-www-form-urlencoded"),
    b"application/json",
]
HEADER = st.one_of(
    st.tuples(st.just(b"content-type"), st.one_of(st.sampled_from(TYPES), st.binary(max_size=60))),
    st.tuples(st.just(b"content-encoding"), st.one_of(st.just(b"gzip"), st.binary(max_size=8))),
    st.tuples(
        st.just(b"content-length"), st.one_of(st.just(b"9" * 18), st.integers(0, 10**6).map(lambda n: b"%d" % n))
    ),
    st.tuples(
        st.just(b"x-request-timeout-ms"),
        st.one_of(
            st.sampled_from([b"60000", b" 060000", b"-1", b"0", b"1e9", b"\xb2", b"9" * 5000]), st.binary(max_size=8)
        ),
    ),
)


def classify(client: TestClient, query: bytes, headers: Headers, body: list[bytes]) -> tuple[int, dict[str, object]]:
    """Checks that an answer is either predictions or a problem document, and returns its status and document."""
    assert client.portal
    status, answered, content = client.portal.call(
        answer, client.app, scope_of("POST", "/classify", query, headers), body
    )
    document: dict[str, object] = json.loads(content)
    if status == 200:
        assert document["images"]
    else:
        assert answered[b"content-type"] == b"application/problem+json"
        assert document["status"] == status
        assert str(document["type"]).startswith("/problems/")
        assert 400 <= status < 500 or (status == 504 and b"x-request-timeout-ms" in dict(headers))
    return status, document


@tried(400)
@given(
    name=st.sampled_from(sorted(BODIES)),
    changes=st.one_of(st.just([]), CHANGES),
    query=st.one_of(st.just(b""), CHANGES.map(lambda changes: changed(QUERY, changes)), st.binary(max_size=40)),
    headers=st.lists(HEADER, max_size=3),
    content_type=st.sampled_from([None, TYPES[0], TYPES[3]]),
    cuts=CUTS,
)
@example(name="form", changes=[], query=b"top_k=" + b"1" * 5000, headers=[], content_type=TYPES[0], cuts=[])
def test_any_request(
    client: TestClient,
    name: str,
    changes: list[tuple[str, int, int]],
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    content_type: bytes | None,
    cuts: list[int],
) -> None:
    given_headers = [*headers, (b"content-type", content_type)] if content_type else headers
    classify(client, query, given_headers, pieces(changed(BODIES[name], changes), cuts))


def test_the_bodies_are_accepted_as_they_are(client: TestClient) -> None:
    assert classify(client, QUERY, [(b"content-type", TYPES[1])], [TINY_PNG])[0] == 200
    for name in ("form", "images"):
        assert classify(client, b"", [(b"content-type", TYPES[0])], [BODIES[name]])[0] == 200
    assert classify(client, b"", [(b"content-type", TYPES[3])], [BODIES["json"]])[0] == 200
