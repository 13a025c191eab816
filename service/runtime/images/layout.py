"""The layout of an image file: what its header says, and which of its bytes hold the picture."""

from __future__ import annotations

from typing import NamedTuple

# A file of so many parts (JPEG segments, WebP chunks) is hostile: real ones have some dozens, of 64 kB and more.
MAX_PARTS = 4000

Span = tuple[int, int]  # offsets of the first byte and of the one behind the last


class Layout(NamedTuple):
    """An image file, walked from part to part without decoding a pixel.

    Attributes:
        width, height: of the stored image, in pixels.
        orientation: the value of the EXIF tag; 1 if the file has none.
        picture: the bytes that decoding needs, in order; the rest is metadata.
        passes: how often the decoder visits every pixel; a pass takes about a nanosecond a pixel.
        pixel_bytes: memory for each loaded pixel: its decoder's, its image's and all copies' until the resize.
        fixed_bytes: memory whose size does not depend on the scale at which the image is loaded.
        lacks_end: whether a JPEG has no end marker after its pixels.
        plain_scan: the offset of the pixels in a JPEG of the kind that hardware decodes: baseline, in one scan, grey or
            YCbCr of a common subsampling. 0 for all others.
    """

    format: str
    width: int
    height: int
    orientation: int
    picture: list[Span]
    passes: int
    pixel_bytes: int
    fixed_bytes: int
    lacks_end: bool = False
    plain_scan: int = 0

    def stripped(self, data: bytes) -> bytes:
        """The file without its metadata; the same bytes, not copied, if it has none."""
        if self.picture == [(0, len(data))]:
            return data
        view = memoryview(data)
        return b"".join([view[start:end] for start, end in self.picture])


def append(picture: list[Span], start: int, end: int) -> None:
    """Adds bytes to a picture; joins them with those directly before."""
    if picture and picture[-1][1] == start:
        picture[-1] = picture[-1][0], end
    else:
        picture.append((start, end))
