"""The attacks of `benchmarks.slow_clients`: slow and silent clients, and uploads of few bytes and many pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.hostile_clients import Attack
from benchmarks.photo import progressive_photo, white_png
from service.bench.requests import post
from service.settings import Settings

IMAGE_BYTES = Settings.model_fields["max_image_bytes"].default
FORM_IMAGES = Settings.model_fields["max_images"].default
TINY_CHUNKS = 10**6
LARGE = (8960, 6720)  # 60.2 megapixels
BOMB = 8000  # its side: 64 megapixels
LIMIT = 4000  # the side of the largest square WebP that the service decodes
BOUNDARY = "x"


def attacks(url: str) -> Iterator[Attack]:
    """Made one after another: the large pictures take seconds."""
    chunked = _head(url, "image/jpeg", "transfer-encoding: chunked") + b"1\r\nx\r\n" * TINY_CHUNKS + b"0\r\n\r\n"
    announced = _head(url, "image/jpeg", f"content-length: {IMAGE_BYTES}")
    yield Attack("1,000 idle connections", 1000)
    yield Attack("500 at one byte a second in the headers", 500, trickle=announced[:-2] + b"x: " + b"x" * 10_000)
    yield Attack("500 at one byte a second in the body", 500, [announced], trickle=b"\xff" * 10_000)
    yield Attack("1,000 that announce 20 MB and stop", 1000, [announced])
    yield Attack("8 bodies of a million chunks of one byte", 8, [chunked])
    yield Attack("8 forms of 32 WebPs of 64 megapixels", 8, [_form(url, [webp_of_one_colour(BOMB)] * FORM_IMAGES)])
    yield Attack("8 forms of 32 WebPs of 16 megapixels", 8, [_form(url, [webp_of_one_colour(LIMIT)] * FORM_IMAGES)])
    large = [
        post(url, white_png(LARGE), "image/png")[1],
        post(url, progressive_photo(LARGE), "image/jpeg")[1],
    ]
    yield Attack("8 PNGs and 8 progressive JPEGs of 60 megapixels", 16, large)


def webp_of_one_colour(side: int) -> bytes:
    """A lossless WebP square in 38 bytes (RFC 9649): five prefix codes of one symbol each, so no pixel takes a bit."""
    fields = [(0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 4), (0, 3), *[(0b0001, 4)] * 5]
    bits = "".join(f"{value:0{length}b}"[::-1] for value, length in fields)
    stream = int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
    content = stream + bytes(18 - len(stream))
    return (
        b"RIFF" + (12 + len(content)).to_bytes(4, "little") + b"WEBPVP8L" + len(content).to_bytes(4, "little") + content
    )


def _head(url: str, content_type: str, length: str) -> bytes:
    """The request line and headers of an upload, with this header for its length."""
    _, request = post(url, b"", content_type)
    return request.replace(b"content-length: 0", length.encode())


def _form(url: str, images: Sequence[bytes]) -> bytes:
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.webp"\r\n\r\n'.encode()
    body = b"".join(start + image + b"\r\n" for image in images) + f"--{BOUNDARY}--\r\n".encode()
    return post(url, body, f"multipart/form-data; boundary={BOUNDARY}")[1]
