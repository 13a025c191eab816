"""Reading the images of a request, within limits that hold for streamed bodies without a length too."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from starlette.requests import Request

from service.api.forms import Part, read_form
from service.errors import (
    ImageTooLarge,
    NoImage,
    Problem,
    RequestTooLarge,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from service.settings import Settings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
FORM = "multipart/form-data"

# Types that say that the body is no image, and what to send instead is known. Under any other the bytes say what they
# are: clients send images as image/jpg, as application/octet-stream, as curl's default for forms, and as nothing.
OTHER_TYPES = ("application/json", "text/html", "application/xml", "multipart/mixed", "multipart/related")


class Upload(NamedTuple):
    """The bytes of one image, and its name where it came in a form."""

    data: bytes
    name: str | None


class Body(NamedTuple):
    """What a request carries: images, and, where it is a form, the fields beside them."""

    uploads: list[Upload]
    fields: list[tuple[str, str]]


async def read_body(request: Request, settings: Settings) -> Body:
    """The images of a request: one as the raw body, or any number in a multipart form.

    Raises:
        UnsupportedMediaType, UnsupportedEncoding, MalformedRequest, NoImage, TooManyImages, RequestTooLarge,
        ImageTooLarge
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(encoding=encoding)
    header = request.headers.get("content-type", "")
    content_type = header.partition(";")[0].strip().lower()
    if content_type == FORM:
        chunks = _limited(request, settings.max_request_bytes, RequestTooLarge)
        return _sorted(await read_form(header, chunks, max_files=settings.max_images))
    if content_type in OTHER_TYPES:
        raise UnsupportedMediaType(content_type=content_type)
    return Body([Upload(await _read(request, settings.max_image_bytes, ImageTooLarge), None)], [])


def _sorted(parts: list[Part]) -> Body:
    """Images, which have one field's name, and the other fields. Raises NoImage."""
    images = [part for part in parts if part.is_file]
    if len({part.name for part in images}) != 1:
        found = ", ".join(f"`{name}`" for name in dict.fromkeys(part.name for part in images or parts))
        raise NoImage(found=f"files in {found}" if images else f"fields {found}" if parts else "nothing")
    fields = [(part.name, part.data.decode(errors="replace")) for part in parts if not part.is_file]
    return Body([Upload(part.data, part.filename) for part in images], fields)


async def _read(request: Request, max_bytes: int, too_large: type[Problem]) -> bytes:
    chunks = [chunk async for chunk in _limited(request, max_bytes, too_large)]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _limited(request: Request, max_bytes: int, too_large: type[Problem]) -> AsyncGenerator[bytes, None]:
    """The body's chunks, until they are more than `max_bytes`; at once if the request says that they will be."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large(bytes=int(declared), max_bytes=max_bytes)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large(bytes=received, max_bytes=max_bytes)
        if chunk:
            yield chunk
