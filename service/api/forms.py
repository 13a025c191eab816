"""Multipart forms (RFC 7578): a streaming parser that keeps parts in memory and refuses what it does not support."""

from __future__ import annotations

import binascii
import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedRequest, TooManyImages
from service.runtime.images.formats import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    describe_non_image,
    has_image_signature,
    unsupported_format,
)

FIELD = "file"  # the field for images
MAX_FIELDS = 16  # besides images
MAX_PREAMBLE = 16384  # bytes up to the end of the first boundary

IDENTITY_ENCODINGS = ("", "7bit", "8bit", "binary")  # Content-Transfer-Encodings (RFC 2045, section 6)
INCOMPLETE = "it ends before its closing boundary"
LET_THE_CLIENT = "let the HTTP client write the content type, which also names the boundary"

# Plain words for the parser's errors. (part of the error, reason)
REASONS = (
    ("header count", "a part has too many headers"),
    ("header size", "a header of a part is too long"),
    ("invalid character 32 in header", "a header of a part continues on a second line, or has a space in its name"),
    ("invalid character 9 in header", "a header of a part continues on a second line, or has a tab in its name"),
    ("invalid character 10 in header", "the header lines of a part end in LF instead of CRLF"),
    ("in header", "a header of a part has invalid characters in its name"),
    ("0-length header", "a header of a part has no name"),
    ("boundary padding", "other text follows a boundary on its line"),
    ("Boundary length", "its boundary is too long"),
    ("at end", "a header line of a part does not end in CRLF"),
)

# As RFC 8187 has it; some clients put it in quotes. Other values in quotes may hold anything.
EXTENDED_FILENAME = re.compile(rb"filename\*\s*=\s*\"?[\w!#$%&+^`{}~-]+'[^']*'([^;\s\"]*)", re.IGNORECASE)
QUOTED = re.compile(rb'(?<![*\s])\s*=\s*"(?:\\.|[^"\\])*"')


class Part(NamedTuple):
    """One part of a form."""

    name: str
    filename: str | None
    data: bytes

    @property
    def is_unfilled(self) -> bool:
        """Whether it is a file input without a chosen file, as browsers send it."""
        return self.filename == "" and not self.data

    @property
    def is_file(self) -> bool:
        """Whether it declares itself an image: it has a file name, or the name of the field for images."""
        return not self.is_unfilled and (self.filename is not None or self.name == FIELD)


class _PartCollector:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self, max_files: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._remaining = {True: max_files, False: MAX_FIELDS}  # files, other fields
        self._max_files = max_files
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data = bytearray()  # of the part, as it came; of base64, what is not decoded yet
        self._decoded = bytearray()  # from base64

    def on_part_begin(self) -> None:
        self._headers = {}
        self._data = bytearray()
        self._decoded = bytearray()

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
            raise MalformedRequest(reason="a part has no name: its Content-Disposition is missing or names none")
        # RFC 7578, section 4.2, forbids the extended form. .NET and Spring send it all the same, beside a plain name in
        # an encoding that no browser uses (RFC 2047): like other servers, this one then takes the extended one.
        filename = options.get(b"filename")
        if b"*" in disposition and (extended := EXTENDED_FILENAME.search(QUOTED.sub(b"", disposition))):
            filename = unquote_to_bytes(extended[1])
        self._name, self._filename = _text(options[b"name"]), None if filename is None else _text(filename)
        content_type = media_type(_text(self._headers.get(b"content-type", b"")))
        if content_type.startswith("multipart/"):
            raise MalformedRequest(
                reason=f"the part `{self._name}` has parts of its own ({content_type}), which are not supported: "
                "send one part for each image"
            )
        self._encoding = _text(self._headers.get(b"content-transfer-encoding", b"").strip().lower())
        if self._encoding not in (*IDENTITY_ENCODINGS, "base64"):
            raise MalformedRequest(
                reason=f"the part `{self._name}` has the Content-Transfer-Encoding {self._encoding}, which is not "
                "supported: send it as binary"
            )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if self._encoding == "base64":
            self._decode_base64()

    def on_part_end(self) -> None:
        if self._encoding == "base64":
            self._decode_base64(ends=True)
        part = Part(self._name, self._filename, bytes(self._decoded if self._encoding == "base64" else self._data))
        self._remaining[part.is_file] -= 1
        if self._remaining[part.is_file] < 0:
            if part.is_file:
                raise TooManyImages(max_images=self._max_files)
            raise MalformedRequest(reason=f"it has more than {MAX_FIELDS} fields")
        self.parts.append(part)

    def on_end(self) -> None:
        self.ended = True

    def _decode_base64(self, ends: bool = False) -> None:
        """Decodes what has come of a part: all of it at its end would hold the event loop for long."""
        text = self._data.translate(None, b"\r\n\t ")
        # Padding ends a text, so four characters wait for the end: whatever comes after them shall be a fault.
        whole = len(text) if ends else max(0, (len(text) - 1) // 4 * 4)
        self._data = text[whole:]
        try:
            if b"=" in text[:whole] and not ends:
                raise binascii.Error
            self._decoded += binascii.a2b_base64(text[:whole], strict_mode=True)
        except binascii.Error:
            raise MalformedRequest(
                reason=f"the part `{self._name}` is not valid base64, which its Content-Transfer-Encoding declares"
            ) from None


def media_type(content_type: str) -> str:
    """The media type of a Content-Type header, in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


async def read_form(content_type: str, chunks: AsyncIterator[bytes], *, max_files: int) -> list[Part]:
    """Parses all parts of a form, in order.

    Args:
        content_type: the header of the request. Only its boundary is used: text is decoded as UTF-8, else as Latin-1,
            whatever charset the header names.
        chunks: the body.
        max_files: the most images that the form may have.

    Raises:
        MalformedRequest: the body is not a form, or not a complete one.
        TooManyImages
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    collector = _PartCollector(max_files)
    callbacks = {name: getattr(collector, name) for name in dir(collector) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(await _read_opening(boundary, chunks))
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        message = str(error)
        reason = next((reason for piece, reason in REASONS if piece in message), "it cannot be parsed")
        raise MalformedRequest(reason=reason) from None
    if not collector.ended:
        raise MalformedRequest(reason=INCOMPLETE)
    return collector.parts


async def _read_opening(boundary: bytes, chunks: AsyncIterator[bytes]) -> bytes:
    """Reads chunks up to the first boundary. Removes the preamble before it and the padding after it.

    RFC 2046, section 5.1.1, allows both; the parser does not. The result is the same however the bytes are cut.
    """
    delimiter = b"--" + boundary
    head = b""
    pattern = None
    async for chunk in chunks:
        head += chunk
        if boundary and head.startswith(delimiter + b"\r\n"):  # the usual case
            return head
        if has_image_signature(head):
            break
        if boundary:
            pattern = pattern or re.compile(b"\r\n" + re.escape(delimiter) + rb"(?:(--)|[ \t]*\r\n)")
            if found := pattern.search(b"\r\n" + head, 0, MAX_PREAMBLE + 2):
                return delimiter + (found[1] or b"\r\n") + head[found.end() - 2 :]
        if len(head) >= MAX_PREAMBLE:
            break
    raise MalformedRequest(reason=_why_not_a_form(head[:MAX_PREAMBLE], boundary))


def _why_not_a_form(head: bytes, boundary: bytes) -> str:
    """Explains why a body that starts with `head` is not a form."""
    if has_image_signature(head):
        kind = "JPEG" if head.startswith(JPEG_SIGNATURE) else "PNG" if head.startswith(PNG_SIGNATURE) else "WebP"
        return f"the body is a {kind}, not a form: let the client write the content type, or send image/{kind.lower()}"
    if format_name := unsupported_format(head):
        return f"the body is a file ({format_name}), not a form: let the client write the content type"
    opening = re.match(rb"(?:\r\n)*--([^\r\n]{1,256})\r?\n", head)
    if opening and not opening[0].endswith(b"\r\n"):
        return "its lines end in LF instead of CRLF"
    body_boundary = _text(opening[1].strip()) if opening else ""
    if not boundary:
        hint = f" (the body begins with `{body_boundary}`)" if opening else ""
        return f"the content type names no boundary{hint}: {LET_THE_CLIENT}"
    expected = _text(boundary)
    if opening:
        return (
            f"the content type names the boundary `{expected}`, but the body begins with `{body_boundary}`: "
            f"{LET_THE_CLIENT}"
        )
    if boundary in head and len(head) < MAX_PREAMBLE:
        return INCOMPLETE
    if not head:
        return "it is empty"
    return f"it begins like {describe_non_image(head)}, not with the boundary `{expected}`"


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
