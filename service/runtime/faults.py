"""What can be wrong with an image: each fault names itself and its remedy."""

from __future__ import annotations

import re
from typing import ClassVar


class Fault(Exception):
    """The base: `detail` and `remedy` are format strings over the keyword arguments, which are kept as `members`.

    A class carries what is the same each time (title, remedy); an instance fills in the numbers. `slug` is the stable
    name to program against.
    """

    title: ClassVar[str]
    detail: ClassVar[str]
    remedy: ClassVar[str]
    slug: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, **members: object) -> None:
        self.members = members
        super().__init__(self.detail.format(**members))

    def advice(self) -> str:
        """The remedy, with the numbers of this case."""
        return self.remedy.format(**self.members)


class ImageFault(Fault):
    """One image cannot be decoded, or may not be."""


class EmptyImage(ImageFault):
    title = "The image is empty"
    detail = "The upload has no bytes."
    remedy = "Send the bytes of a JPEG, PNG or WebP file. With curl, check the path after the @."


class TooManyPixels(ImageFault):
    title = "The image has too many pixels"
    detail = "The image is {width}x{height} pixels; at most {max_pixels} pixels of a {format} file are decoded."
    remedy = "Scale the picture down before sending it: the network sees a few hundred pixels of it anyway."


class TooComplexImage(ImageFault):
    title = "The image would take too long to decode"
    detail = "The image file has {found} {parts}; at most {most} are read. Ordinary files have far fewer."
    remedy = "Open the picture in an image editor, save it as a plain JPEG or PNG, and send that."


class UnsupportedImageFormat(ImageFault):
    title = "The image format is not supported"
    detail = "This file has another format ({format}); supported are {supported}."
    remedy = "Convert the picture to a supported format."


class NotAnImage(ImageFault):
    title = "Not an image"
    detail = "The upload is not a JPEG, PNG or WebP image: it begins like {found}."
    remedy = "Send the unmodified bytes of an image file (not base64, not a data URL, not an HTML page)."


class TruncatedImage(ImageFault):
    title = "The image is truncated"
    detail = "The image ends before its last pixel: {received} bytes were received."
    remedy = "Send the whole file again. If the stored file is damaged, replace it."


class CorruptImage(ImageFault):
    title = "The image is damaged"
    detail = "The image cannot be decoded: {reason}"
    remedy = "Open the file in a viewer. If it is damaged there too, replace it; otherwise save it again and send that."
