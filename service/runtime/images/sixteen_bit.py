"""16-bit PNGs of cameras, X-ray machines and depth sensors, scaled to 8 bits.

Such files hold the sensor's values unscaled, and often do not say how many bits those have: at 16 bits, a picture of
12-bit values would be black. The scale is the number of bits that the sBIT chunk names, else the smallest common one
that holds the largest value. Or a model's card names the window of values that it has been trained on.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from service.runtime.images.png_chunks import significant_bits

SENSOR_BITS = (8, 10, 12, 14, 16)
BIT_DEPTH_OFFSET = 24  # of the bit depth in a PNG's header, in bytes of the file


def to_8_bits(image: Image.Image, data: bytes, window: tuple[int, int] | None = None) -> Image.Image:
    """Scales a decoded 16-bit PNG to 8 bits; returns any other image unchanged.

    Args:
        data: the file that the image was decoded from, without metadata.
        window: the values that become 0 and 255; None to go by the file.
    """
    if image.mode.startswith("I;16"):
        return _scale_grey(image, data, window)
    if image.format == "PNG" and data[BIT_DEPTH_OFFSET] == 16 and image.mode in ("RGB", "RGBA"):
        return _scale_colours(image, data, window)
    return image


def _scale_grey(image: Image.Image, data: bytes, window: tuple[int, int] | None) -> Image.Image:
    """Scales 16-bit grey. Pillow's own conversion clips it at 255, which turns nearly all of it white."""
    grey = np.asarray(image)
    if window:
        return Image.fromarray(_windowed(window)[grey])
    bits = _sensor_bits(int(grey.max()), data)
    return Image.fromarray((grey >> max(0, bits - 8)).astype(np.uint8))


def _windowed(window: tuple[int, int]) -> np.ndarray:
    """The 8-bit value for each 16-bit one: uint8 (65536,)."""
    low, high = window
    values = np.clip(np.arange(2**16), low, high) - low
    return ((255 * values + (high - low) // 2) // (high - low)).astype(np.uint8)


def _scale_colours(image: Image.Image, data: bytes, window: tuple[int, int] | None) -> Image.Image:
    """Scales 16-bit colours. Pillow keeps only their high bytes, so the file is decoded again for the low ones."""
    high = np.asarray(image)
    if high[..., :3].max() >= 1 << (SENSOR_BITS[-2] - 8) and not window:
        return image  # all 16 bits are in use: the high bytes are the scaled values
    again = Image.open(io.BytesIO(data), formats=("PNG",))
    (tile,) = again.tile
    if tile.args != f"{image.mode};16B":  # 16-bit grey with transparency: Pillow offers its high bytes only
        return image
    again.tile = [tile._replace(args=f"{image.mode};16L")]
    low = np.asarray(again)
    again.close()  # frees its pixels
    if window:
        scaled = high.copy()  # with its alpha channel
        table = _windowed(window)
        for channel in range(3):
            scaled[..., channel] = table[high[..., channel].astype(np.uint16) << 8 | low[..., channel]]
        return Image.fromarray(scaled)
    largest = int(high[..., :3].max()) << 8
    largest |= int(low[..., :3][high[..., :3] == largest >> 8].max())
    bits = _sensor_bits(largest, data)
    scaled = high << np.uint8(16 - bits)
    scaled |= low >> np.uint8(bits - 8)
    if image.mode == "RGBA" and high[..., 3].max() >= 1 << max(0, bits - 8):  # the alpha channel uses all 16 bits
        scaled[..., 3] = high[..., 3]
    return Image.fromarray(scaled)


def _sensor_bits(largest: int, data: bytes) -> int:
    """How many bits the samples of a 16-bit PNG have, given their largest value."""
    bits = significant_bits(data) or 0
    if not largest < 2**bits <= 2**16:  # sBIT is missing or wrong
        bits = next(bits for bits in SENSOR_BITS if largest < 2**bits)
    return bits
