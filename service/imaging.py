"""From the bytes of an upload to the network's input, with the pixels of training.

Uploads are hostile: formats are an allow-list, sizes are checked before any pixel is decoded, and every fault is a
problem of its own that names the remedy.
"""

from __future__ import annotations

import io
import math
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from service.card import Interpolation, Preprocessing
from service.errors import (
    CorruptImage,
    EmptyImage,
    ImageProblem,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)
from service.formats import END_OF_JPEG, PNG, bare, ends, mistaken_for_an_image, name_of, significant_bits

try:
    from service._resample import resample
except ImportError:  # installed without a C compiler: Pillow makes the same pixels in more time
    resample = None  # type: ignore[assignment]
COMPILED = resample is not None

# Pillow opens far more formats than a classification service should parse (most of its CVEs are in those decoders).
FORMATS = ("JPEG", "PNG", "WEBP")

# Bits that sensors have. 16-bit PNGs hold their values unscaled, where nothing says how many there are.
SENSOR_BITS = (8, 10, 12, 14, 16)
BIT_DEPTH = 24  # where a PNG's header says the bits of a sample, in bytes of the file

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Turn(NamedTuple):
    """What a viewer does with the stored image: mirror it, then exchange its axes."""

    mirror_x: bool
    mirror_y: bool
    sideways: bool
    transpose: Image.Transpose | None  # the same in one step


# By EXIF orientation (Exif 3.0, tag 0x0112).
TURNS = {
    1: Turn(False, False, False, None),
    2: Turn(True, False, False, Image.Transpose.FLIP_LEFT_RIGHT),
    3: Turn(True, True, False, Image.Transpose.ROTATE_180),
    4: Turn(False, True, False, Image.Transpose.FLIP_TOP_BOTTOM),
    5: Turn(False, False, True, Image.Transpose.TRANSPOSE),
    6: Turn(False, True, True, Image.Transpose.ROTATE_270),
    7: Turn(True, True, True, Image.Transpose.TRANSVERSE),
    8: Turn(True, False, True, Image.Transpose.ROTATE_90),
}

# How many times the resized shorter side a scaled photograph has at least. At exactly 1 nothing would be left for the
# antialiasing filter to do, and pixels differ by up to 5 grey levels on average; from 1.17 on by less than 2.
SPARE = 1.2

# Pillow's own limit warns or raises inside `open`, at a size that cannot be set per call. `decode` checks the size
# from the header, before any pixel is decoded, against the limit it is given.
Image.MAX_IMAGE_PIXELS = None


Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the source


class Decoded(NamedTuple):
    """One image, ready for a batch."""

    pixels: np.ndarray  # uint8 (3, crop, crop), RGB
    width: int  # of the whole image, upright, in pixels
    height: int


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool = True) -> Decoded:
    """Decodes an upload, turns it upright, resizes its shorter side and cuts out the centre.

    Greyscale, 16-bit, palette, CMYK and transparent images come out as RGB (transparency over white), animations as
    their first frame. 16-bit PNGs are scaled by the bits that the sBIT chunk names, else by the least of 8, 10, 12, 14
    and 16 that hold the largest value: what a camera or an X-ray machine stores in 12 bits is no black picture.

    The resize is Pillow's antialiased filter on the grid of torchvision's `Resize` followed by `CenterCrop`, so
    serving's pixels are those of training.

    Args:
        scaled: lets the JPEG decoder shrink a large photograph to a half, a quarter or an eighth, never below `SPARE`
            times `resize`: a fraction of the time, and pixels that differ a little from those of the whole photograph.

    Raises:
        EmptyImage, UnsupportedImageFormat, NotAnImage, TooManyPixels, TruncatedImage, CorruptImage: see `errors`.
    """
    image = open_image(data, max_pixels)
    size = image.size
    divisor = shrink(image, math.ceil(SPARE * preprocessing.resize)) if scaled else 1
    image = load(image, data)
    turn = orientation(image)
    shown = size[::-1] if TURNS[turn].sideways else size
    # The crop is cut out of the image as it is stored, and only then turned: a small picture instead of a large one.
    left, top, right, bottom = stored(crop_box(shown, preprocessing), size, turn)
    box = (left / divisor, top / divisor, right / divisor, bottom / divisor)
    pixels = resize_to_array(to_rgb_or_rgba(image), box, preprocessing)
    return Decoded(turned_pixels(pixels, turn), *shown)


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only. Raises as `decode` does."""
    if not data:
        raise EmptyImage()
    try:
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Exception:
            if not data.startswith(PNG):
                raise
            image = Image.open(io.BytesIO(bare(data)), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # a decoder may raise anything on a damaged header
        raise _damage(error, data) from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(width=width, height=height, max_pixels=max_pixels)
    return image


def load(image: Image.Image, data: bytes) -> Image.Image:
    """Decodes the pixels of an opened image. Raises TruncatedImage or CorruptImage.

    Returns:
        The image, or another of the same file: where only what no pixel needs is at fault.
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # on damaged files a decoder may raise anything: OSError, struct.error, zlib.error, ...
        with suppress(Exception):
            if image.format == "PNG" and (without := bare(data)) != data:
                return load(Image.open(io.BytesIO(without), formats=("PNG",)), without)
            if (whole := _with_end(image, data)) is not None:
                return whole
        raise _damage(error, data) from None
    if image.mode.startswith("I;16"):
        return _grey_of_a_sensor(image, data)
    if image.format == "PNG" and data[BIT_DEPTH] == 16 and image.mode in ("RGB", "RGBA"):
        return _colours_of_a_sensor(image, data)
    return image


def _grey_of_a_sensor(image: Image.Image, data: bytes) -> Image.Image:
    """16-bit grey in 8 bits. (Pillow's own conversion clips it at 255, which turns nearly all of it white.)"""
    grey = np.asarray(image)
    bits = _sensor_bits(int(grey.max()), data)
    return Image.fromarray((grey >> max(0, bits - 8)).astype(np.uint8))


def _colours_of_a_sensor(image: Image.Image, data: bytes) -> Image.Image:
    """As 16-bit grey, of 16-bit colours, of which Pillow keeps the high bytes: it is asked for the low ones, too."""
    high = np.asarray(image)
    if high[..., :3].max() >= 1 << (SENSOR_BITS[-2] - 8):
        return image
    again = Image.open(io.BytesIO(bare(data)), formats=("PNG",))
    (tile,) = again.tile
    if tile.args != f"{image.mode};16B":  # 16-bit grey with transparency, of which only the high bytes can be had
        return image
    again.tile = [tile._replace(args=f"{image.mode};16L")]
    low = np.asarray(again)
    largest = int(high[..., :3].max()) << 8
    largest |= int(low[..., :3][high[..., :3] == largest >> 8].max())
    bits = _sensor_bits(largest, data)
    scaled = high << np.uint8(16 - bits) | low >> np.uint8(bits - 8)
    if image.mode == "RGBA" and high[..., 3].max() >= 1 << max(0, bits - 8):  # transparency of all 16 bits
        scaled[..., 3] = high[..., 3]
    return Image.fromarray(scaled)


def _sensor_bits(largest: int, data: bytes) -> int:
    """How many bits the samples of a 16-bit PNG have that holds this largest value."""
    bits = significant_bits(data) or 0
    if not largest < 2**bits <= 2**16:  # it is not told, or not true
        bits = next(bits for bits in SENSOR_BITS if largest < 2**bits)
    return bits


def _with_end(image: Image.Image, data: bytes) -> Image.Image | None:
    """A JPEG that lacks nothing but the marker of its end, decoded at the size that `image` was to have; else None.

    Whether a pixel is missing shows when something is put before the end: the decoder takes it for pixels that are
    missing, and passes over it where none are.
    """
    if image.format != "JPEG" or data.endswith(END_OF_JPEG):
        return None
    found = []
    for more in (END_OF_JPEG, b"\xa5\x3c" * 32 + END_OF_JPEG):  # not zeros, which it makes up by itself
        again = Image.open(io.BytesIO(data.removesuffix(END_OF_JPEG[:1]) + more), formats=("JPEG",))
        again.draft(None, image.size)
        again.load()
        found.append(again)
    one, other = found
    return one if one.tobytes() == other.tobytes() else None


def shrink(image: Image.Image, side: int) -> int:
    """Makes an opened JPEG load at 1/8, 1/4 or 1/2 of its size, the least that has `side` pixels; other formats whole.

    The decoder leaves out the frequencies that would be thrown away (libjpeg's scaled inverse DCT).

    Returns:
        By how much its sides are divided: 1, 2, 4 or 8. Coordinates divided by this are those of the smaller image.
    """
    width = image.width
    drafted = image.draft(None, (side, side))
    return 1 if drafted is None else round(width / drafted[1][2])


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; where it is missing or unreadable 1, upright."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as for `load`: metadata of any content. A viewer shows such a picture; so do we
        return 1
    return found if found in TURNS else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a viewer shows it that heeds the orientation."""
    transpose = TURNS[orientation].transpose
    return image if transpose is None else image.transpose(transpose)


def stored(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a part of the image that is shown lies in the one that is stored, of this width and height."""
    left, top, right, bottom = box
    turn = TURNS[orientation]
    width, height = size
    if turn.sideways:
        left, top, right, bottom = top, left, bottom, right
    if turn.mirror_x:
        left, right = width - right, width - left
    if turn.mirror_y:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def turned_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As `turned`, of uint8 (3, side, side)."""
    turn = TURNS[orientation]
    if turn.mirror_x:
        pixels = pixels[:, :, ::-1]
    if turn.mirror_y:
        pixels = pixels[:, ::-1]
    if turn.sideways:
        pixels = pixels.transpose(0, 2, 1)
    return np.ascontiguousarray(pixels)


def to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """Any mode that the allowed formats produce, in 8 bits; RGBA where something is transparent."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    """RGB as it is; RGBA as it looks on white paper."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """RGB as uint8 `(3, height, width)`."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def resized_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height once the shorter side is resized: torchvision's `Resize` rounds the longer one down."""
    short = min(size)
    width, height = (shorter_side if side == short else int(shorter_side * side / short) for side in size)
    return width, height


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """Where the centre crop of the resized image lies in an image of this width and height."""
    p = preprocessing
    width, height = size
    resized_width, resized_height = resized_size(size, p.resize)
    left = round((resized_width - p.crop) / 2)
    top = round((resized_height - p.crop) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + p.crop) * scale_x, (top + p.crop) * scale_y


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side of an image to `resize`, the centre `crop` x `crop` of that.

    Only the pixels of the crop are computed, on the grid that resizing the whole image would use, so the result is
    that of resizing and then cropping.
    """
    return _resize(image, crop_box(image.size, preprocessing), preprocessing)


def resize_to_array(image: Image.Image, box: Box, preprocessing: Preprocessing) -> np.ndarray:
    """A part of an RGB or RGBA image, resized to `crop` x `crop`: uint8 (3, crop, crop), RGB, on white."""
    if image.mode == "RGB" and resample is not None:
        try:
            _, source = image.__arrow_c_array__()
        except ValueError:  # Pillow keeps more than 16 MB in several blocks: it has to resize them itself
            pass
        else:
            crop = preprocessing.crop
            pixels = np.empty((3, crop, crop), np.uint8)
            resample(source, image.width, image.height, preprocessing.interpolation, box, pixels, crop, crop)
            return pixels
    # Transparency is laid on white after the resize, which makes a picture of any size small. The result is the same:
    # Pillow resizes premultiplied colours.
    return to_array(on_white(_resize(image, box, preprocessing)))


def _resize(image: Image.Image, box: Box, preprocessing: Preprocessing) -> Image.Image:
    return image.resize((preprocessing.crop, preprocessing.crop), RESAMPLING[preprocessing.interpolation], box)


def _unidentified(data: bytes) -> ImageProblem:
    if ends(data) is not None:  # begins like a supported format: only its rest can be at fault
        return _damage(None, data)
    if name := name_of(data):
        return UnsupportedImageFormat(format=name, supported=", ".join(FORMATS))
    return NotAnImage(found=mistaken_for_an_image(data))


def _damage(error: Exception | None, data: bytes) -> UnsupportedImageFormat | TruncatedImage | CorruptImage:
    """What is wrong with a file that a decoder has given up."""
    if name := name_of(data):
        return UnsupportedImageFormat(format=name, supported=", ".join(FORMATS))
    if ends(data) is False:
        return TruncatedImage(received=len(data))
    return CorruptImage(reason=str(error) if error else "its header is damaged")
