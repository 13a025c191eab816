"""Pictures of class activation maps: what they take, and how those of one request are drawn, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from service.decoders import Decoders
from service.jobs import Job, report
from service.runtime.images.headers import read_header
from service.runtime.images.overlay import overlays, picture_size
from service.runtime.images.resizing import Box
from service.runtime.preprocessing import Preprocessing

# Of a pixel of a picture; of its file, beside those; and how many pictures drawing takes, besides those that are sent.
PIXEL_BYTES, FILE_BYTES, PICTURES = 3, 1024, 6


def drawing_bytes(size: tuple[int, int], count: int) -> int:
    """Memory that drawing `count` pictures takes, and their files.

    Args:
        size: width and height of the upright image.
    """
    return (count + PICTURES) * (PIXEL_BYTES * math.prod(picture_size(*size)) + FILE_BYTES)


def drawn(
    job: Job,
    maps: np.ndarray,
    box: Box,
    files: list[bytes],
    preprocessing: Preprocessing,
    max_pixels: int,
    decoders: Decoders,
) -> Iterator[None]:
    """On a thread: draws one picture at each step, then delivers the job; ends as soon as nobody waits for it.

    Args:
        maps, box: as for `overlays`.
        files: gets the pictures.
        decoders: has the memory in which the image is decoded.
    """
    if job.pending.done():
        return
    assert isinstance(job.data, bytes)
    job.decoding = job.decoded = time.perf_counter()
    try:
        header = read_header(job.data, preprocessing, max_pixels=max_pixels)
        drawing = overlays(job.data, maps, box, max_pixels=max_pixels, window=preprocessing.window)
        with decoders.memory_for(header.decode_bytes):
            files.append(next(drawing))  # decodes the image
        yield
        while len(files) < len(maps) and not job.pending.done():
            files.append(next(drawing))
            yield
        if not job.pending.done():
            job.deliver(job)
    except BaseException as error:  # the pool would swallow it
        report(error, job)
