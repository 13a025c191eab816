"""Reads the images of a request within limits, which hold for streamed bodies of unknown length too."""

from __future__ import annotations

import asyncio
import io
import math
import re
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, NamedTuple, TypeVar

from starlette.requests import Request

from service.admission import Permit
from service.api.forms import Part, media_type, read_form
from service.api.json_images import COPIES, JSON_TYPE, Layout, layout_of_classify, read_images
from service.deadline import Deadline
from service.errors import NoImage, RepeatedHeader, RequestTooLarge, UnsupportedEncoding, UnsupportedMediaType
from service.runtime.faults import CorruptImage, Fault, NotAnImage, TruncatedImage
from service.settings import Settings
from service.upload_faults import FileNameAsImage, FormAsImage, ImageTooLarge, TextEncodedImage

T = TypeVar("T")

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
FORM = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"

# Types that are certainly not images. Under any other type the bytes decide: clients send images as image/jpg, as
# application/octet-stream, as curl's default for forms, and without a type.
REFUSED_TYPES = ("text/html", "application/xml", "multipart/mixed", "multipart/related")

# Does not look for `form-data`: given another content type, curl writes `attachment` instead.
FORM_START = re.compile(rb"\s*--[^\r\n]+\r?\n(?:[\w-]+:[^\r\n]*\r?\n)*Content-Disposition:", re.IGNORECASE)
FILE_NAME = re.compile(r"@?([^\0-\x1f\x7f]{1,255}\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|heif|avif))\s*", re.IGNORECASE)


class Upload(NamedTuple):
    """The bytes of one image, and its file name if it came in a form with one."""

    data: bytes
    name: str | None


class Body(NamedTuple):
    """The images of a request, and the other fields of a form or of JSON."""

    uploads: list[Upload]
    fields: list[tuple[str, str]]


async def read_body(request: Request, settings: Settings, permit: Permit, layout: Layout = layout_of_classify) -> Body:
    """Reads the images of a request: one as the raw body, or any number in a multipart form or in JSON.

    Args:
        permit: holds the body's bytes.
        layout: of JSON.

    Raises:
        UnsupportedMediaType, UnsupportedEncoding, RepeatedHeader, MalformedRequest, NoImage, TooManyImages,
        RequestTooLarge, ImageTooLarge, MemoryExhausted; those of `read_json`
    """
    check_encoding(request)
    header = only_header(request, "Content-Type") or ""
    content_type = media_type(header)
    if content_type == FORM:
        chunks = _limited(request, permit, settings.max_request_bytes, RequestTooLarge)
        return _body_of_form(await read_form(header, chunks, max_files=settings.max_images))
    if content_type == JSON_TYPE:
        return await read_json(request, settings, permit, layout)
    if content_type in REFUSED_TYPES:
        raise UnsupportedMediaType(content_type=content_type)
    return Body([Upload(await read_whole(request, permit, settings.max_image_bytes, ImageTooLarge), None)], [])


async def arriving(body: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """Awaits a body. Raises DeadlineMissed if it has not arrived by then."""
    if deadline.at == math.inf:
        return await body
    try:
        async with asyncio.timeout(deadline.left):
            return await body
    except TimeoutError:
        raise deadline.missed("its body took longer to arrive") from None


def check_encoding(request: Request) -> None:
    """Raises UnsupportedEncoding, or RepeatedHeader."""
    encoding = (only_header(request, "Content-Encoding") or "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(encoding=encoding)


async def read_json(request: Request, settings: Settings, permit: Permit, layout: Layout) -> Body:
    """Reads the images of a JSON body, whatever content type the request has.

    Raises:
        UnsupportedEncoding, RepeatedHeader, RequestTooLarge, MemoryExhausted; those of `read_images`
    """
    check_encoding(request)
    body = bytearray()
    most = min(settings.max_request_bytes, permit.most_bytes // COPIES)  # a larger one would never find memory
    async for chunk in _limited(request, permit, most, RequestTooLarge):
        body += chunk
    images, fields = await read_images(body, permit, layout, settings.max_images)
    return Body([Upload(image, None) for image in images], fields)


def only_header(request: Request, name: str) -> str | None:
    """The value of a header; None without it. Raises RepeatedHeader if it is there with several values."""
    wanted = name.lower().encode()
    values = [value for key, value in request.scope["headers"] if key == wanted]  # lower case, by ASGI
    if not values:
        return None
    if len(set(values)) > 1:
        raise RepeatedHeader(header=name, values=", ".join(value.decode("latin-1") for value in values))
    return str(values[0], "latin-1")


def diagnose(fault: Fault, upload: Upload, request: Request) -> Fault:
    """Replaces the fault of an undecodable upload by the mistake in sending it, if the request shows one."""
    if not isinstance(fault, NotAnImage | TruncatedImage | CorruptImage):
        return fault
    data, content_type = upload.data, media_type(request.headers.get("content-type", ""))
    if name := _image_file_name(data):
        return FileNameAsImage(name=name)
    if content_type == FORM:
        return fault
    if FORM_START.match(data[:4096]):
        return FormAsImage(content_type=content_type or "none")
    if content_type == URLENCODED and b"\n" not in data and b"\r" not in data:
        return TextEncodedImage()
    return fault


def _image_file_name(data: bytes) -> str | None:
    """The file name of an image, if that is all the data is."""
    try:
        match = FILE_NAME.fullmatch(data[:300].decode())
    except UnicodeDecodeError:
        return None
    return match[1] if match and "://" not in match[1] else None


def _body_of_form(parts: list[Part]) -> Body:
    """Separates images from other fields. Raises NoImage unless all images are in one field."""
    images = [part for part in parts if part.is_file]
    if len({part.name for part in images}) != 1:
        raise NoImage(found=_describe(images, parts))
    fields = [
        (part.name, part.data.decode(errors="replace")) for part in parts if not (part.is_file or part.is_unfilled)
    ]
    return Body([Upload(part.data, part.filename) for part in images], fields)


def _describe(images: list[Part], parts: list[Part]) -> str:
    """The content of a form without images, or with images in several fields, in words."""
    if not parts:
        return "nothing"
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(part.name for part in images or parts))
    if images:
        return f"files in {names}"
    return f"no file chosen in {names}" if all(part.is_unfilled for part in parts) else f"fields {names}"


async def read_whole(request: Request, permit: Permit, max_bytes: int, too_large: type[Fault]) -> bytes:
    """The body as it is.

    Args:
        permit: holds its bytes.

    Raises:
        MemoryExhausted, or `too_large` beyond `max_bytes`.
    """
    body: io.BytesIO | None = None
    async for chunk in _limited(request, permit, max_bytes, too_large):
        if body is None:
            body = io.BytesIO(chunk)  # shares it; the usual body of one piece is never copied
            body.seek(0, io.SEEK_END)
        else:
            body.write(chunk)  # a list of tiny pieces would take sixty times their bytes
    return body.getvalue() if body else b""


async def _limited(
    request: Request, permit: Permit, max_bytes: int, too_large: type[Fault]
) -> AsyncGenerator[bytes, None]:
    """The body's chunks. Raises `too_large` beyond `max_bytes`, and at once if the request declares more."""
    length = request.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() else None
    if declared is not None and declared > max_bytes:
        raise too_large(bytes=declared, max_bytes=max_bytes)
    if declared is not None:
        permit.expect_bytes(declared)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large(bytes=received, max_bytes=max_bytes)
        permit.reserve_bytes(len(chunk))  # not earlier: a client that announces a body and stops holds nothing
        if chunk:
            yield chunk
