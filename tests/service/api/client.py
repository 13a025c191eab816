"""What the tests of the API send, and the problem documents they expect."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import httpx
from PIL import Image
from starlette.testclient import TestClient

BOUNDARY = "x"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, data: bytes, rest: str = "") -> bytes:
    """A part of a form. `rest` goes on in its Content-Disposition: `; filename="a.jpg"`."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
UNFILLED = part("file", b"", '; filename=""')


def send(client: TestClient, *parts: bytes, end: bytes = END, query: str = "") -> httpx.Response:
    """Posts a form of these parts."""
    response: httpx.Response = client.post(f"/classify{query}", content=b"".join(parts) + end, headers=FORM)
    return response


def raw(client: TestClient, body: bytes, content_type: str = FORM["content-type"]) -> httpx.Response:
    """Posts these bytes under this content type."""
    response: httpx.Response = client.post("/classify", content=body, headers={"content-type": content_type})
    return response


def form(*files: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Images as httpx sends them in a form."""
    return [("file", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(files)]


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Checks that a response is this problem document; returns it."""
    document: dict[str, Any] = response.json()
    assert (response.status_code, document.get("type")) == (status, f"/problems/{slug}"), document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    for member in ("title", "detail", "remedy"):
        assert document[member]
    return document


def as_file(photo: bytes, kind: str) -> bytes:
    """The photograph in another format."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, kind)
    return buffer.getvalue()


def entry(name: str, scopes: str, rest: str = "") -> str:
    """A key whose token is its name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'[{name}]\nsha256 = "{digest}"\nscopes = [{scopes}]\n{rest}\n'


def as_bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
