"""Forms: multipart bodies (RFC 7578) taken apart as they come, in memory, and never half understood."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedRequest, TooManyImages

FIELD = "file"  # the name of images
MAX_FIELDS = 16  # of a form, besides its images

EXTENDED = re.compile(rb"filename\*\s*=\s*([\w!#$%&+^`{}~-]+)'[^']*'([^;\s]*)", re.IGNORECASE)  # RFC 8187


class Part(NamedTuple):
    """One part of a form.

    Attributes:
        filename: None where it has none.
    """

    name: str
    filename: str | None
    data: bytes

    @property
    def is_file(self) -> bool:
        """Whether it is an image, by what it says: it has a file name, or it is called so."""
        return self.filename is not None or self.name == FIELD


class _Parts:
    """What the parser tells, put together."""

    def __init__(self, max_files: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._left = {True: max_files, False: MAX_FIELDS}  # files, others
        self._max_files = max_files
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data = bytearray()

    def on_part_begin(self) -> None:
        self._headers = {}
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise MalformedRequest(reason="a part has no Content-Disposition that names it")
        filename = options.get(b"filename")
        if filename is None and (found := EXTENDED.search(disposition)):
            filename = unquote_to_bytes(found[2])
        self._name, self._filename = _text(options[b"name"]), None if filename is None else _text(filename)
        is_file = self._filename is not None or self._name == FIELD
        self._left[is_file] -= 1
        if self._left[is_file] < 0:
            if is_file:
                raise TooManyImages(max_images=self._max_files)
            raise MalformedRequest(reason=f"it has more than {MAX_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.parts.append(Part(self._name, self._filename, bytes(self._data)))

    def on_end(self) -> None:
        self.ended = True


async def read_form(content_type: str, chunks: AsyncIterator[bytes], *, max_files: int) -> list[Part]:
    """All parts of a form, in order.

    Of the content type only the boundary is used: text is UTF-8, whatever charset it carries.

    Raises:
        MalformedRequest: it is not a form, or not a whole one.
        TooManyImages
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedRequest(reason="the content type names no boundary")
    parts = _Parts(max_files)
    callbacks = {name: getattr(parts, name) for name in dir(parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise MalformedRequest(reason=str(error)) from None
    if not parts.ended:
        raise MalformedRequest(reason="it ends before its closing boundary")
    return parts.parts


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
