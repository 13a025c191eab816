"""Images as callers give them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar


class Readable(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes: ...


Image: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | Readable
"""The path of an image file, its bytes, or the open file. JPEG, PNG or WebP."""

Images = TypeVar("Images", bound=Iterable[Image] | AsyncIterable[Image])


def read_image(image: Image) -> bytes:
    """The bytes of the file.

    Raises:
        OSError: the file cannot be read.
        TypeError: that is not an image.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if not hasattr(image, "read"):
        raise TypeError(f"an image is a path, bytes or an open file, not {type(image).__name__}")
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError("the file gives text, not bytes: open it in mode 'rb'")
    return data


def several(images: Images) -> Images:
    """Raises TypeError for one image in the place of many: its letters or bytes are not images."""
    if isinstance(images, str | PathLike | bytes | bytearray | memoryview) or hasattr(images, "read"):
        raise TypeError(f"give an iterable of images, not a single one ({type(images).__name__})")
    return images
