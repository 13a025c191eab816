"""Reading the images of a request, within limits that hold for streamed bodies without a length too."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import (
    ImageTooLarge,
    MalformedRequest,
    NoImage,
    Problem,
    RequestTooLarge,
    TooManyImages,
    UnsupportedMediaType,
)
from service.settings import Settings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
FIELD = "file"
MAX_FIELDS = 16  # that are no files: there is no use for any, but clients send some


class Upload(NamedTuple):
    """The bytes of one image, and its name where it came in a form."""

    data: bytes
    name: str | None


class InMemoryParser(MultiPartParser):
    """Starlette's parser without its temporary files: the body is bounded, and the root may be read-only."""

    spool_max_size = 0  # never rolls over to disk


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request: one as the raw body, or any number in a multipart form.

    Raises:
        UnsupportedMediaType, MalformedRequest, NoImage, TooManyImages, RequestTooLarge, ImageTooLarge
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in IMAGE_TYPES:
        body = await _read(request, settings.max_image_bytes, ImageTooLarge)
        return [Upload(body, None)]
    if content_type == "multipart/form-data":
        return await _read_form(request, settings)
    raise UnsupportedMediaType(content_type=content_type or "missing")


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


async def _read_form(request: Request, settings: Settings) -> list[Upload]:
    stream = _limited(request, settings.max_request_bytes, RequestTooLarge)
    # Of the content type only the boundary is passed on. Names would be decoded with the charset that it may carry, and
    # among Python's codecs some are slow beyond measure and some give text that is no Unicode. Forms are UTF-8.
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"").decode("latin-1")
    headers = Headers(
        {"content-type": f'multipart/form-data; boundary="{boundary}"'} if boundary else {"content-type": ""}
    )
    parser = InMemoryParser(headers, stream, max_files=settings.max_images, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooManyImages(max_images=settings.max_images) from None
        raise MalformedRequest(reason=error.message) from None
    try:
        files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
        if not files:
            raise NoImage()
        return [Upload(await file.read(), file.filename) for file in files]
    finally:
        await form.close()
