"""Files that are made to cost time, of any length. Of megabytes, each made Pillow or libjpeg run for seconds."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from tests.service.runtime.images.jpeg import insert, segment, with_scans
from tests.service.runtime.images.pictures import encode
from tests.service.runtime.images.png import chunk
from tests.service.runtime.images.png import insert_chunks as insert_png_chunks
from tests.service.runtime.images.riff import chunk as riff_chunk
from tests.service.runtime.images.riff import extended, webp

GREY = Image.new("RGB", (64, 48), "grey")
JPEG = encode(GREY, "JPEG")
PROGRESSIVE = encode(GREY, "JPEG", progressive=True)
PNG = encode(GREY)
WEBP = encode(GREY, "WEBP")


def exif_of_65535_tags() -> bytes:
    tags = b"".join(b"\0\1\0\2\xff\xff\xff\xff\xff\xff\xff\xff" for _ in range(5000))
    return b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + tags


# Each takes a length in bytes, and returns about as many.
FILES: dict[str, Callable[[int], bytes]] = {
    "empty comments": lambda size: insert(JPEG, segment(0xFE) * (size // 4)),
    "EXIF in pieces": lambda size: insert(JPEG, segment(0xE1, b"Exif\0\0x") * (size // 11)),
    "junk between segments": lambda size: insert(JPEG, segment(0xFE) + bytes(size)),
    "fill bytes": lambda size: insert(JPEG, b"\xff" * size),
    "escaped bytes": lambda size: insert(JPEG, b"\xff\0" * (size // 2)),
    "restart markers": lambda size: insert(JPEG, b"\xff\xd0" * (size // 2)),
    "tables": lambda size: insert(JPEG, segment(0xDB, b"\0" + bytes(range(1, 65))) * (size // 69)),
    "scans": lambda size: with_scans(PROGRESSIVE, size // 14),
    "comments between scans": lambda size: PROGRESSIVE[:-2] + segment(0xFE) * (size // 4) + PROGRESSIVE[-2:],
    "markers in a scan": lambda size: PROGRESSIVE[:-2] + b"\xff\1" * (size // 2) + PROGRESSIVE[-2:],
    "tags": lambda size: insert(JPEG, segment(0xE1, exif_of_65535_tags())) + bytes(size),
    "empty chunks": lambda size: insert_png_chunks(PNG, *[(b"prVt", b"")] * (size // 12)),
    "empty pixels": lambda size: PNG[:33] + chunk(b"IDAT") * (size // 12) + PNG[33:],
    "texts": lambda size: insert_png_chunks(PNG, *[(b"tEXt", b"a\0")] * (size // 14)),
    "chunks behind the pixels": lambda size: PNG[:-12] + chunk(b"tEXt", b"a\0") * (size // 14) + PNG[-12:],
    "frames": lambda size: webp(extended(64, 48, 2), WEBP[12:], *[riff_chunk(b"ANMF")] * (size // 8)),
    "WebP texts": lambda size: webp(extended(64, 48, 4), WEBP[12:], *[riff_chunk(b"XMP ")] * (size // 8)),
}
