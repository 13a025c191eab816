"""Forms: multipart bodies (RFC 7578) taken apart as they come, in memory, and never half understood."""

from __future__ import annotations

import binascii
import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedRequest, TooManyImages
from service.formats import JPEG, PNG, begins_an_image, mistaken_for_an_image, name_of

FIELD = "file"  # the name of images
MAX_FIELDS = 16  # of a form, besides its images
MAX_PREAMBLE = 16384  # bytes before the first boundary

AS_THEY_ARE = ("", "7bit", "8bit", "binary")  # Content-Transfer-Encodings (RFC 2045, section 6)
LEAVE_IT = "leave the content type to the HTTP client, which writes both"

# What the parser says, in plain words. (a piece of it, ours)
WORDS = (
    ("header count", "a part has too many headers"),
    ("header size", "a header of a part is too long"),
    ("invalid character 32 in header", "a header of a part goes on in a second line, or has a blank in its name"),
    ("invalid character 9 in header", "a header of a part goes on in a second line, or has a blank in its name"),
    ("invalid character 10 in header", "the lines of its headers end in LF alone: they end in CRLF"),
    ("in header", "a header of a part has a name with characters that no name has"),
    ("0-length header", "a header of a part has no name"),
    ("boundary padding", "something stands behind a boundary in its line"),
    ("Boundary length", "its boundary is too long"),
    ("at end", "a line of a part's headers does not end in CRLF"),
)

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
    def is_unfilled(self) -> bool:
        """Whether it is what browsers send of a file input in which no file was chosen."""
        return self.filename == "" and not self.data

    @property
    def is_file(self) -> bool:
        """Whether it is an image, by what it says: it has a file name, or it is called so."""
        return not self.is_unfilled and (self.filename is not None or self.name == FIELD)


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
        content_type = self._headers.get(b"content-type", b"")
        if content_type.lower().startswith(b"multipart/"):
            kind = _text(content_type.partition(b";")[0])
            raise MalformedRequest(
                reason=f"the part `{self._name}` has parts of its own ({kind}), which are not taken: "
                "send one part for each image"
            )
        self._encoding = _text(self._headers.get(b"content-transfer-encoding", b"").strip().lower())
        if self._encoding not in (*AS_THEY_ARE, "base64"):
            raise MalformedRequest(
                reason=f"the part `{self._name}` has the Content-Transfer-Encoding {self._encoding}, which is not "
                "taken: send it as binary"
            )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        data = self._from_base64() if self._encoding == "base64" else bytes(self._data)
        part = Part(self._name, self._filename, data)
        self._left[part.is_file] -= 1
        if self._left[part.is_file] < 0:
            if part.is_file:
                raise TooManyImages(max_images=self._max_files)
            raise MalformedRequest(reason=f"it has more than {MAX_FIELDS} fields")
        self.parts.append(part)

    def on_end(self) -> None:
        self.ended = True

    def _from_base64(self) -> bytes:
        try:
            return binascii.a2b_base64(self._data.translate(None, b"\r\n\t "), strict_mode=True)
        except binascii.Error:
            raise MalformedRequest(
                reason=f"the part `{self._name}` is not base64, as its Content-Transfer-Encoding says, or not all of it"
            ) from None


async def read_form(content_type: str, chunks: AsyncIterator[bytes], *, max_files: int) -> list[Part]:
    """All parts of a form, in order.

    Of the content type only the boundary is used: text is UTF-8, whatever charset it carries.

    Raises:
        MalformedRequest: it is not a form, or not a whole one.
        TooManyImages
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    parts = _Parts(max_files)
    callbacks = {name: getattr(parts, name) for name in dir(parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(await _opening(boundary, chunks))
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        said = str(error)
        reason = next((words for piece, words in WORDS if piece in said), "it cannot be taken apart")
        raise MalformedRequest(reason=reason) from None
    if not parts.ended:
        raise MalformedRequest(reason="it ends before its closing boundary")
    return parts.parts


async def _opening(boundary: bytes, chunks: AsyncIterator[bytes]) -> bytes:
    """The first chunks, from the first boundary on, as the parser takes it: nothing before it, no blanks behind it.

    RFC 2046, section 5.1.1, allows both.
    """
    first = b"--" + boundary
    head = b""
    pattern = None
    async for chunk in chunks:
        head += chunk
        if head.startswith(first + b"\r\n"):  # as all clients send it
            return head
        if not boundary or begins_an_image(head):
            break
        pattern = pattern or re.compile(rb"(?:\A|\r\n)" + re.escape(first) + rb"(?:(--)|[ \t]*\r\n)")
        if found := pattern.search(head):
            return first + (found[1] or b"\r\n") + head[found.end() :]
        if len(head) > MAX_PREAMBLE:
            break
    raise MalformedRequest(reason=_why_not_a_form(head, boundary))


def _why_not_a_form(head: bytes, boundary: bytes) -> str:
    """What is wrong with a body that has no beginning of a form; `head` is the beginning it has."""
    if begins_an_image(head):
        kind = "JPEG" if head.startswith(JPEG) else "PNG" if head.startswith(PNG) else "WebP"
        return f"the body is a {kind}, not a form: leave the content type to the client or send image/{kind.lower()}"
    if kind := name_of(head) or "":
        return f"the body is a file ({kind}), not a form: leave the content type to the client"
    begun = re.match(rb"(?:\r\n)*--([^\r\n]{1,256})\r?\n", head)
    if begun and begun[0].endswith(b"\n") and not begun[0].endswith(b"\r\n"):
        return "its lines end in LF alone: in a form they end in CRLF"
    of_body = _text(begun[1].strip()) if begun else ""
    if not boundary:
        begins = f" (the body begins with `{of_body}`)" if begun else ""
        return f"the content type names no boundary{begins}: {LEAVE_IT}"
    of_header = _text(boundary)
    if begun:
        return f"the content type names the boundary `{of_header}`, but the body begins with `{of_body}`: {LEAVE_IT}"
    if boundary in head:
        return "it ends before its closing boundary"
    found = mistaken_for_an_image(head) if head else "nothing, for it is empty"
    return f"it begins like {found}, not with the boundary `{of_header}`"


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
