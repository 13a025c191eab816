"""The chunks of a WebP (RFC 9649, section 2), walked without decoding a pixel."""

from __future__ import annotations

from service.runtime.faults import TooComplexImage
from service.runtime.images.exif import orientation_of
from service.runtime.images.layout import MAX_PARTS, Layout

ALPHA_FLAG = 0x10  # of VP8X

# Memory for each pixel: two canvases of libwebp's animation decoder, which Pillow uses for every WebP, the canvas as
# `bytes`, and the image. Lossless pictures are decoded to a buffer of their own first; those with alpha are
# premultiplied before the resize. Tests hold it against the process.
PIXEL_BYTES = 4 + 4 + 4 + 4
ALPHA_BYTES = 4

# A lossless picture or alpha channel (RFC 9649, section 3) is divided into tiles of 4x4 pixels or more, each of which
# may name a group of prefix codes of its own. libwebp builds tables for every group. Encoders write some hundreds; a
# file of 300 kB can ask for 65,536, which are 400 MB. Their number stands behind compressed data, so this is a bound.
MAX_GROUPS = 65_536
UNUSED_GROUPS = 1000  # may be named by no tile
GROUP_BYTES = 6144  # of memory
GROUP_BITS = 20  # of the file, at least

FILE_COPIES = 3  # Pillow's, libwebp's, and Pillow's while it reads


def read_webp(data: bytes) -> Layout | None:
    """The layout of a file that starts with a RIFF header of type WEBP; None if its header is damaged or cut off.

    Raises:
        TooComplexImage: there are more chunks than real files have: an animation has one for each frame.
    """
    size = _read_size(data)
    if size is None:
        return None
    exif = xmp = b""
    lossless_bytes = 0
    frames = 0
    riff_end = 8 + int.from_bytes(data[4:8], "little")
    start = 12
    for _ in range(MAX_PARTS):
        if start + 8 > min(len(data), riff_end):
            break
        kind = data[start : start + 4]
        end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if kind == b"EXIF":
            exif = exif or data[start + 8 : end]
        elif kind == b"XMP ":
            xmp = xmp or data[start + 8 : end]
        elif kind == b"ANMF":
            frames += 1
            if frames == 1:
                end = start + 24  # go on with the chunks in the first frame
        elif kind in (b"VP8L", b"ALPH") and frames <= 1:
            lossless_bytes += end - start
        start = end + end % 2
    else:
        raise TooComplexImage(found=f"more than {MAX_PARTS}", parts="chunks", most=MAX_PARTS)
    has_alpha = data[12:16] == b"VP8L" or (data[12:16] == b"VP8X" and bool(data[20] & ALPHA_FLAG))
    pixels = size[0] * size[1]
    groups = min(MAX_GROUPS, max(UNUSED_GROUPS, pixels // 16), lossless_bytes * 8 // GROUP_BITS)
    return Layout(
        format="WEBP",
        width=size[0],
        height=size[1],
        orientation=orientation_of(exif, xmp),
        picture=[(0, len(data))],
        passes=1,
        pixel_bytes=PIXEL_BYTES + (ALPHA_BYTES if has_alpha else 0),
        fixed_bytes=FILE_COPIES * len(data) + groups * GROUP_BYTES,
    )


def _read_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the first chunk: of the canvas (VP8X), or of the only picture (VP8, VP8L)."""
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X" and len(content) == 10:
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if kind == b"VP8L" and len(content) >= 5 and content[0] == 0x2F:
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(content) == 10 and content[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return (width, height) if width and height else None
    return None
