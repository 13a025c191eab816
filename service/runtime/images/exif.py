"""Reads the orientation from EXIF and XMP metadata, and nothing else.

Pillow's parser reads every tag, logs a line for each damaged one, and took ten megabytes of log for one hostile file.
"""

from __future__ import annotations

import re
import struct

PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
VALUE_FORMATS = {3: "H", 4: "L", 8: "h", 9: "l"}  # whole numbers of 16 and 32 bits, by the TIFF field type
MAX_TAGS = 500  # of the first directory; cameras write some dozens
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """The orientation, 1 to 8, that the EXIF block of a file names, else its XMP packet; 1 if neither does.

    Args:
        exif: a TIFF header and its directories, with or without `PREFIX` (Exif 3.0, section 4.5); may be empty.
        xmp: the packet, uncompressed (XMP part 3); may be empty.
    """
    found = _exif_orientation(exif)
    if found is None and (match := XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return found if found is not None and 1 <= found <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    """The value of the tag in the first directory (TIFF 6.0, section 2); None without it."""
    tiff = exif.removeprefix(PREFIX).removeprefix(PREFIX)  # some programs write it twice
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (at,) = struct.unpack_from(order + "L", tiff, 4)
    (tags,) = struct.unpack(order + "H", tiff[at : at + 2].ljust(2, b"\0"))
    entries = tiff[at + 2 : at + 2 + 12 * min(tags, MAX_TAGS)]
    for tag, kind, count, value in struct.iter_unpack(order + "HHL4s", entries[: len(entries) // 12 * 12]):
        if tag == ORIENTATION_TAG and kind in VALUE_FORMATS and count == 1:
            return int(struct.unpack_from(order + VALUE_FORMATS[kind], value)[0])
    return None
