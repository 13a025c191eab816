"""Reading the images of a request, within limits that hold for streamed bodies without a length too."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import NamedTuple

from starlette.requests import Request

from service.api.forms import Part, read_form
from service.errors import (
    CorruptImage,
    FileNameAsImage,
    FormAsImage,
    ImageTooLarge,
    NoImage,
    NotAnImage,
    Problem,
    RepeatedHeader,
    RequestTooLarge,
    TextEncodedImage,
    TruncatedImage,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from service.settings import Settings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
FORM = "multipart/form-data"
TEXT = "application/x-www-form-urlencoded"

# Types that say that the body is no image, and what to send instead is known. Under any other the bytes say what they
# are: clients send images as image/jpg, as application/octet-stream, as curl's default for forms, and as nothing.
OTHER_TYPES = ("application/json", "text/html", "application/xml", "multipart/mixed", "multipart/related")

# curl writes `attachment` for `form-data` where it is told another content type.
FORM_BEGINS = re.compile(rb"\s*--[^\r\n]+\r?\n(?:[\w-]+:[^\r\n]*\r?\n)*Content-Disposition:", re.IGNORECASE)
FILE_NAME = re.compile(r"@?([^\0-\x1f\x7f]{1,255}\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|heif|avif))\s*", re.IGNORECASE)


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
        UnsupportedMediaType, UnsupportedEncoding, RepeatedHeader, MalformedRequest, NoImage, TooManyImages,
        RequestTooLarge, ImageTooLarge
    """
    encodings = request.headers.getlist("content-encoding")
    if len(encodings) > 1:
        raise RepeatedHeader(header="Content-Encoding", values=", ".join(encodings))
    encoding = encodings[0].strip().lower() if encodings else ""
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(encoding=encoding)
    headers = request.headers.getlist("content-type")
    if len(set(headers)) > 1:
        raise RepeatedHeader(header="Content-Type", values=", ".join(headers))
    header = headers[0] if headers else ""
    content_type = _media_type(header)
    if content_type == FORM:
        chunks = _limited(request, settings.max_request_bytes, RequestTooLarge)
        return _sorted(await read_form(header, chunks, max_files=settings.max_images))
    if content_type in OTHER_TYPES:
        raise UnsupportedMediaType(content_type=content_type)
    return Body([Upload(await _read(request, settings.max_image_bytes, ImageTooLarge), None)], [])


def explained(problem: Problem, upload: Upload, request: Request) -> Problem:
    """What is wrong with an upload, where the request tells more than its bytes: how it came to be sent."""
    if not isinstance(problem, NotAnImage | TruncatedImage | CorruptImage):
        return problem
    data, content_type = upload.data, request.headers.get("content-type", "")
    if name := _file_name(data):
        return FileNameAsImage(name=name)
    if _media_type(content_type) == FORM:
        return problem
    if FORM_BEGINS.match(data[:4096]):
        return FormAsImage(content_type=_media_type(content_type) or "none")
    if _media_type(content_type) == TEXT and b"\n" not in data and b"\r" not in data:
        return TextEncodedImage()
    return problem


def _file_name(data: bytes) -> str | None:
    """The name that a short text is, if it is that of an image."""
    try:
        found = FILE_NAME.fullmatch(data[:300].decode())
    except UnicodeDecodeError:
        return None
    return found[1] if found and "://" not in found[1] else None


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _sorted(parts: list[Part]) -> Body:
    """Images, which have one field's name, and the other fields. Raises NoImage."""
    images = [part for part in parts if part.is_file]
    if len({part.name for part in images}) != 1:
        raise NoImage(found=_found(images, parts))
    fields = [
        (part.name, part.data.decode(errors="replace")) for part in parts if not (part.is_file or part.is_unfilled)
    ]
    return Body([Upload(part.data, part.filename) for part in images], fields)


def _found(images: list[Part], parts: list[Part]) -> str:
    if not parts:
        return "nothing"
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(part.name for part in images or parts))
    if images:
        return f"files in {names}"
    return f"no file chosen in {names}" if all(part.is_unfilled for part in parts) else f"fields {names}"


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
