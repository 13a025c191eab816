"""The chunks of a PNG, walked without decoding a pixel."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from service.runtime.faults import TooComplexImage
from service.runtime.images.exif import orientation_of
from service.runtime.images.formats import PNG_SIGNATURE
from service.runtime.images.layout import Layout, Span, append

# All that the pixels depend on (PNG specification, sections 11.2 and 11.3). The rest slows Pillow down, and long or
# damaged texts make it refuse the picture. An animation without its frames is its default image.
PICTURE_CHUNKS = {b"PLTE", b"tRNS", b"sBIT", b"IDAT", b"IEND"}
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
XMP_KEY = b"XML:com.adobe.xmp\0"
EXIF_KEY = b"Raw profile type exif\0"  # of ImageMagick: hexadecimal, after three lines
MAX_TEXT = 2**18  # bytes of a text, compressed or not, that is searched for the orientation

# The smallest common chunk of pixels has 8 kB. A large picture may have more chunks than `MAX_CHUNKS`.
MAX_CHUNKS = 10_000
CHUNK_BYTES = 1024

HEADER = slice(len(PNG_SIGNATURE) + 8, len(PNG_SIGNATURE) + 21)  # the content of IHDR
HEADER_END = HEADER.stop + 4

# Memory for each pixel by colour type, at 8 bits and less: of Pillow's image and its copies (as RGB or RGBA; with
# premultiplied colours). Tests hold it against the process.
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
PIXEL_BYTES = {GREY: 1 + 4, RGB: 4, PALETTE: 1 + 4, GREY_ALPHA: 4 + 4 + 4, RGBA: 4 + 4}
TRANSPARENT_PIXEL_BYTES = {GREY: 1 + 4 + 4, RGB: 4 + 4 + 4, PALETTE: 1 + 4 + 4}  # with tRNS
DEEP_PIXEL_BYTES = {GREY: 12, RGB: 18, GREY_ALPHA: 12, RGBA: 22}  # at 16 bits, colours are decoded twice


def read_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of every chunk, the offset of its length field, and that of the next chunk. The last may be cut off.

    Raises:
        TooComplexImage: there are more than `MAX_CHUNKS`, and more than one for every `CHUNK_BYTES`.
    """
    most = max(MAX_CHUNKS, len(data) // CHUNK_BYTES)
    start = len(PNG_SIGNATURE)
    for _ in range(most):
        if start + 8 > len(data):
            return
        end = start + 12 + int.from_bytes(data[start : start + 4])
        yield data[start + 4 : start + 8], start, end
        start = end
    raise TooComplexImage(found=f"more than {most}", parts="chunks", most=most)


def read_png(data: bytes) -> Layout | None:
    """The layout of a file that starts with `PNG_SIGNATURE`; None if its header is damaged or cut off.

    Raises:
        TooComplexImage: see `read_chunks`.
    """
    header = data[HEADER]
    if len(header) < 13 or data[HEADER.start - 8 : HEADER.start] != b"\0\0\0\x0dIHDR":
        return None
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits, colours = header[8:10]
    by_colours = DEEP_PIXEL_BYTES if bits == 16 else PIXEL_BYTES
    if not width or not height or colours not in by_colours:
        return None
    pixel_bytes = by_colours[colours]
    picture: list[Span] = [(0, HEADER_END)]
    exif = b""
    texts: dict[bytes, bytes] = {}  # by key, the first one only: each may unfold to `MAX_TEXT`
    for kind, start, end in read_chunks(data):
        if kind in PICTURE_CHUNKS:
            append(picture, start, min(end, len(data)))
            if kind == b"IEND":
                break
            if kind == b"tRNS":
                pixel_bytes = max(pixel_bytes, TRANSPARENT_PIXEL_BYTES.get(colours, 0))
        elif kind == b"eXIf":
            exif = exif or data[start + 8 : end - 4]
        elif kind in TEXT_CHUNKS:
            for key in (XMP_KEY, EXIF_KEY):
                if data.startswith(key, start + 8) and key not in texts:
                    content = start + 8 + len(key)
                    texts[key] = _text(kind, data[content : min(end - 4, content + MAX_TEXT)])
    return Layout(
        format="PNG",
        width=width,
        height=height,
        orientation=orientation_of(exif or _unhexed(texts.get(EXIF_KEY, b"")), texts.get(XMP_KEY, b"")),
        picture=picture,
        passes=1,
        pixel_bytes=pixel_bytes,
        fixed_bytes=0 if len(picture) == 1 else len(data),
    )


def significant_bits(data: bytes) -> int | None:
    """How many bits of each sample were measured (sBIT), the largest of all colours; None if the file does not say."""
    for kind, start, end in read_chunks(data):
        if kind == b"IDAT":
            return None
        if kind == b"sBIT":
            return max(data[start + 8 : end - 4][:3], default=None)
    return None


def _text(kind: bytes, content: bytes) -> bytes:
    """The first `MAX_TEXT` bytes of a text, given what follows its key, cut off or not; empty if it is damaged."""
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        content = content[1:]  # the compression method
    elif kind == b"iTXt":
        compressed = content[:1] == b"\1"
        content = content[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind the language and the translated key
    try:
        return zlib.decompressobj().decompress(content, MAX_TEXT) if compressed else content[:MAX_TEXT]
    except zlib.error:
        return b""


def _unhexed(profile: bytes) -> bytes:
    """The EXIF block in ImageMagick's text."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
