"""Fuzzes the parser of forms: `python -m tests.fuzz.forms --bodies 1000000` (needs the extra `fuzz`)."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from service.runtime.faults import Fault

MAX_LENGTH = 4096
HEAD = b"multipart/form-data; boundary=b\n"


async def _pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def parse_any(data: bytes) -> None:
    """Parses a form. The first byte is the size of the pieces in which the body arrives; a line of text comes next,
    the content type; the body follows. Anything but parts or a fault is a finding.
    """
    from service.api.forms import read_form

    content_type, _, body = data[1:].partition(b"\n")
    size = 1 + (data[0] if data else 0)
    reading = read_form(content_type.decode("latin-1"), _pieces(body, size), max_files=4)
    with contextlib.suppress(Fault):
        parts = result_of(reading)
        assert all(isinstance(part.data, bytes) for part in parts)


def result_of(reading: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        reading.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something else than its body")


def part(headers: bytes, content: bytes = b"content") -> bytes:
    return b"--b\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


DISPOSITION = b'Content-Disposition: form-data; name="file"'
SEEDS = [
    b"\xff" + HEAD + part(DISPOSITION + b'; filename="a.jpg"\r\nContent-Type: image/jpeg') + b"--b--\r\n",
    b"\x01" + HEAD + b"preamble\r\n" + part(DISPOSITION) * 3 + b"--b--",
    b"\x10" + HEAD + part(DISPOSITION + b"; filename*=utf-8''a%20b") + b"--b--\r\nepilogue",
    b"\xff" + HEAD + part(DISPOSITION + b"\r\nContent-Transfer-Encoding: base64", b"/9j/4AAQ") + b"--b--\r\n",
    b"\xff" + HEAD + part(DISPOSITION + b"\r\nContent-Type: multipart/mixed; boundary=c") + b"--b--\r\n",
    b"\xff" + b'multipart/form-data; charset=utf-8; boundary="b c"\n' + b"--b c \t\r\n" + b"--b--\n",
    b"\xff" + b"multipart/form-data\n" + b"\xff\xd8\xff\xe0",
]


if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["service.api.forms", "python_multipart", "service.runtime.images"]):
        importlib.import_module("service.api.forms")
    from tests.fuzz.running import run

    run(parse_any, SEEDS, max_length=MAX_LENGTH)
