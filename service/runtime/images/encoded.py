"""JPEGs that the engine decodes itself, on its GPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.runtime.images.formats import JPEG_END
from service.runtime.images.headers import Header

# Larger ones are decoded by the processor. The workers' shared memory has this much room for each image.
MAX_BYTES = 2**20

# The same for images of more pixels: a batch of 64 takes 800 MB of the GPU's memory.
MAX_PIXELS = 2**22


class EncodedJpeg(NamedTuple):
    """A JPEG as it came, without its metadata.

    Attributes:
        data: the file; from shared memory uint8 `(size,)`.
        width, height: in pixels.
    """

    data: bytes | np.ndarray
    width: int
    height: int


def encoded(data: bytes, header: Header) -> EncodedJpeg | None:
    """An upload for a GPU to decode; None if the processor must: what is not a plain, upright, complete JPEG.

    Args:
        header: what `read_header` returned for the upload.
    """
    layout = header.layout
    if not layout.plain_scan or layout.orientation != 1 or header.width * header.height > MAX_PIXELS:
        return None
    if data.find(JPEG_END, layout.plain_scan) != len(data) - len(JPEG_END):  # something follows, or the end is missing
        return None
    stripped = layout.stripped(data)
    return EncodedJpeg(stripped, header.width, header.height) if len(stripped) <= MAX_BYTES else None
