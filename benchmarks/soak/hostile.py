"""Hostile bodies, made from good ones with seeded randomness."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from PIL import Image

BOMB_SIDE = 8000  # 64 megapixels
FORM = "multipart/form-data; boundary=b"
IMAGE = "image/jpeg"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--b--\r\n"


class Body(NamedTuple):
    content: bytes
    content_type: str


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def _bomb(kind: str) -> bytes:
    """Many pixels of one colour in few bytes."""
    side = BOMB_SIDE // 2 if kind == "WEBP" else BOMB_SIDE  # a WebP may have a quarter of the pixels
    return _encode(Image.new("RGB", (side, side), "grey"), kind, **({"lossless": True} if kind == "WEBP" else {}))


@functools.cache
def _progressive() -> bytes:
    return _encode(Image.new("RGB", (640, 480), "grey"), "JPEG", progressive=True)


def _last_scan(jpeg: bytes) -> bytes:
    return jpeg[jpeg.rindex(b"\xff\xda") : -2]


def truncated(good: bytes, random: Random) -> Body:
    return Body(good[: random.randrange(len(good))], IMAGE)


def mutated(good: bytes, random: Random) -> Body:
    data = bytearray(good)
    for _ in range(random.randint(1, 30)):
        data[random.randrange(len(data))] = random.randrange(256)
    return Body(bytes(data), IMAGE)


def bomb(good: bytes, random: Random) -> Body:
    return Body(_bomb(random.choice(["PNG", "JPEG", "WEBP"])), IMAGE)


def bombs_in_a_form(good: bytes, random: Random) -> Body:
    return Body((PART + _bomb("WEBP") + b"\r\n") * 8 + END, FORM)


def many_scans(good: bytes, random: Random) -> Body:
    jpeg = _progressive()
    return Body(jpeg[:-2] + _last_scan(jpeg) * random.choice([100, 1000, 10_000]) + jpeg[-2:], IMAGE)


def many_segments(good: bytes, random: Random) -> Body:
    return Body(good[:2] + b"\xff\xfe\0\2" * random.choice([1000, 100_000]) + good[2:], IMAGE)


def many_parts(good: bytes, random: Random) -> Body:
    return Body((PART + b"\r\n") * random.choice([33, 10_000]) + END, FORM)


def odd_form(good: bytes, random: Random) -> Body:
    """A form without an end, with another boundary, with endless headers, or within a form."""
    return random.choice(
        [
            Body(PART + good, FORM),
            Body(PART + good + END, "multipart/form-data; boundary=c"),
            Body(PART + good + END, "multipart/form-data"),
            Body(b"--b\r\nX: " + b"x" * 100_000 + b"\r\n\r\n" + END, FORM),
            Body(b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + PART + good + END, FORM),
            Body(PART + good + END + PART + good, FORM),
        ]
    )


def noise(good: bytes, random: Random) -> Body:
    return Body(good[:3] + random.randbytes(random.randint(0, 50_000)), random.choice([IMAGE, FORM, "text/plain"]))


# By kind; each takes a good JPEG.
BODIES: dict[str, Callable[[bytes, Random], Body]] = {
    "truncated": truncated,
    "mutated": mutated,
    "bomb": bomb,
    "bombs in a form": bombs_in_a_form,
    "many scans": many_scans,
    "many segments": many_segments,
    "many parts": many_parts,
    "odd form": odd_form,
    "noise": noise,
}
