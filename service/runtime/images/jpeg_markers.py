"""The segments of a JPEG (ITU-T T.81, annex B), walked without decoding a pixel.

Regular expressions find the markers, so a step in Python is taken for each segment, never for each byte. Hostile files
made Pillow's and libjpeg's parsers run for seconds and minutes: with a million empty comments, bytes between the
segments, EXIF in a thousand pieces, a thousand scans.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from service.runtime.faults import TooComplexImage
from service.runtime.images.exif import PREFIX, orientation_of
from service.runtime.images.formats import JPEG_END, unsupported
from service.runtime.images.layout import MAX_PARTS, Layout, Span, append

XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"

# Start-of-frame markers (table B.1). libjpeg decodes sequential and progressive DCT only.
SEQUENTIAL = {0xC0, 0xC1, 0xC9}
PROGRESSIVE = {0xC2, 0xCA}
ARITHMETIC = {0xC9, 0xCA}
BASELINE = 0xC0
UNSUPPORTED_FRAMES = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical JPEG",
    0xF7: "JPEG-LS",  # ITU-T T.87
}
BARE = {0x01, *range(0xD0, 0xDA)}  # without a length
HUFFMAN_TABLES = 0xC4
TABLES = {HUFFMAN_TABLES, 0xCC, 0xDB, 0xDD}  # DHT, DAC, DQT, DRI
ADOBE = 0xEE  # its last byte is 0 if three components are RGB (libjpeg's jdmarker.c)
METADATA = {*range(0xE0, 0xF0), 0xFE}  # APPn, COM
IGNORED = 0xDC  # DNL
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9

# Of grey, and of colours with chroma at full size, halved in one direction or in both.
PLAIN_SAMPLING = {((1, 1),), *(((x, y), (1, 1), (1, 1)) for x in (1, 2) for y in (1, 2))}

MARKER = re.compile(rb"\xff[^\x00\xff]")
MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # 0 escapes a data byte, D0 to D7 are restart markers

MAX_JUNK = 65_536  # bytes between the segments; real files have none, or some fill bytes
MAX_TABLE_BYTES = 65_536  # before the first scan; real files have less than 3 kB
MAX_SCANS = 100  # progressive files have about ten, the most elaborate encoders write twenty

# An arithmetic decoder never runs out of data: a few bytes can stand for any number of coefficients.
ARITHMETIC_PASSES = 16

# Memory, from the sources of libjpeg-turbo 3 (jdcoefct.c) and Pillow 13 (Storage.c); tests hold it against the process.
COEFFICIENT_BYTES = 2  # kept of every sample when there is more than one scan
CHANNEL_BYTES = {1: 1 + 4, 3: 4, 4: 4 + 4}  # by components: the image, and the copy as RGB if it is not RGB
# Without an end marker the picture is decoded twice more, and compared.
CHANNEL_BYTES_WITHOUT_END = {1: 1 + 1 + 1 + 3, 3: 4 + 4 + 4, 4: 4 + 4 + 4}


class Frame(NamedTuple):
    """A frame header (section B.2.2)."""

    marker: int
    width: int
    height: int
    sampling: tuple[tuple[int, int], ...]  # horizontal and vertical factor of each component
    names: bytes  # of the components

    def samples(self) -> int:
        """Samples of all components, each of which is stored in whole minimum coded units."""
        largest_x = max(x for x, _ in self.sampling)
        largest_y = max(y for _, y in self.sampling)
        columns = -(-self.width // (8 * largest_x))
        rows = -(-self.height // (8 * largest_y))
        units = columns * rows
        return 64 * units * sum(x * y for x, y in self.sampling)


def read_jpeg(data: bytes) -> Layout | None:
    """The layout of a file that starts with `JPEG_SIGNATURE`; None if it is damaged or cut off before its first scan.

    Raises:
        UnsupportedImageFormat: libjpeg does not decode this kind of JPEG.
        TooComplexImage: there are more segments, tables, scans or bytes between them than real files have.
    """
    picture: list[Span] = [(0, 2)]
    exif = []
    xmp = b""
    frame = None
    adobe_rgb = has_huffman_tables = False
    table_bytes = 0
    junk = MAX_JUNK
    at = 2
    for _ in range(MAX_PARTS):
        found = MARKER.search(data, at, at + junk)
        if found is None:
            if at + junk < len(data):
                raise TooComplexImage(found=f"more than {MAX_JUNK}", parts="bytes between segments", most=MAX_JUNK)
            return None
        junk -= found.start() - at
        start, at = found.span()
        marker = data[at - 1]
        if marker in BARE:
            continue
        if marker in UNSUPPORTED_FRAMES:
            raise unsupported(UNSUPPORTED_FRAMES[marker])
        length = int.from_bytes(data[at : at + 2])
        end = at + length
        if length < 2 or end > len(data):
            return None
        if marker in METADATA:
            if marker == 0xE1 and data.startswith(PREFIX, at + 2):
                exif.append(data[at + 2 + len(PREFIX) : end])
            elif marker == 0xE1 and data.startswith(XMP_PREFIX, at + 2):
                xmp = data[at + 2 + len(XMP_PREFIX) : end]
            elif _decides_colours(data, marker, at):
                append(picture, start, end)
                adobe_rgb |= marker == ADOBE and data[at + 13 : at + 14] == b"\0"
        elif marker in TABLES:
            table_bytes += length
            has_huffman_tables |= marker == HUFFMAN_TABLES
            append(picture, start, end)
        elif marker in SEQUENTIAL or marker in PROGRESSIVE:
            if frame is not None or (frame := _read_frame(data, marker, at)) is None:
                return None
            append(picture, start, end)
        elif marker == START_OF_SCAN:
            break
        elif marker != IGNORED:
            return None
        at = end
    else:
        raise TooComplexImage(found=f"more than {MAX_PARTS}", parts="segments", most=MAX_PARTS)
    if table_bytes > MAX_TABLE_BYTES:
        raise TooComplexImage(found=table_bytes, parts="bytes of tables", most=MAX_TABLE_BYTES)
    if frame is None or length < 3:
        return None
    append(picture, start, len(data))
    components = len(frame.sampling)
    coefficients = 0
    scans = 1
    if frame.marker in PROGRESSIVE or data[at + 2] < components:
        scans, has_end = _count_scans(data, end)
        coefficients = frame.samples() * COEFFICIENT_BYTES
    else:  # libjpeg decodes a single scan
        has_end = data.endswith(JPEG_END) or data.rfind(JPEG_END, end) >= 0
    plain = (
        coefficients == 0
        and frame.marker == BASELINE
        and frame.sampling in PLAIN_SAMPLING
        and has_huffman_tables
        and not adobe_rgb
        and frame.names != b"RGB"
    )
    return Layout(
        format="JPEG",
        width=frame.width,
        height=frame.height,
        orientation=orientation_of(b"".join(exif), xmp),
        picture=picture,
        passes=scans * (ARITHMETIC_PASSES if frame.marker in ARITHMETIC else 1),
        pixel_bytes=CHANNEL_BYTES[components] if has_end else CHANNEL_BYTES_WITHOUT_END[components],
        fixed_bytes=coefficients + len(data) * ((len(picture) > 1) + (not has_end)),
        lacks_end=not has_end,
        plain_scan=end if plain else 0,
    )


def _decides_colours(data: bytes, marker: int, at: int) -> bool:
    """Whether a segment tells libjpeg how the components encode colours: JFIF and Adobe do."""
    return (marker == 0xE0 and data.startswith(b"JFIF\0", at + 2)) or (
        marker == ADOBE and data.startswith(b"Adobe", at + 2)
    )


def _read_frame(data: bytes, marker: int, at: int) -> Frame | None:
    """The frame header whose length field is at this offset; None if it makes no sense."""
    length, bits, height, width, components = struct.unpack(">HBHHB", data[at : at + 8].ljust(8, b"\0"))
    if bits != 8:
        raise unsupported(f"{bits}-bit JPEG")
    if components not in CHANNEL_BYTES or length != 8 + 3 * components or not width or not height:
        return None
    sampling = tuple((both >> 4, both & 15) for both in data[at + 9 : at + length : 3])
    if not all(1 <= factor <= 4 for factors in sampling for factor in factors):
        return None
    return Frame(marker, width, height, sampling, names=data[at + 8 : at + length : 3])


def _count_scans(data: bytes, at: int) -> tuple[int, bool]:
    """Counts the scans as libjpeg finds them, given the offset of the first one's data.

    Returns:
        The scans, and whether an end marker follows.

    Raises:
        TooComplexImage: there are more than `MAX_SCANS`, or too many segments between them.
    """
    scans = 1
    for _ in range(MAX_PARTS):
        found = MARKER_IN_SCAN.search(data, at)
        if found is None:
            return scans, False
        at = found.end()
        marker = data[at - 1]
        if marker == END_OF_IMAGE:
            return scans, True
        if marker == START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise TooComplexImage(found=f"more than {MAX_SCANS}", parts="scans", most=MAX_SCANS)
        if marker >= 0xC0 and marker not in BARE:
            at += int.from_bytes(data[at : at + 2])
    raise TooComplexImage(found=f"more than {MAX_PARTS}", parts="segments", most=MAX_PARTS)
