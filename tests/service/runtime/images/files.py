"""Small files of every mode that the three formats have."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image

from service.runtime.images.formats import PNG_SIGNATURE
from tests.service.runtime.images.pictures import encode
from tests.service.runtime.images.png import chunk, insert_chunks, png_of_16_bit_colours


def png_of_16_bit_grey_with_alpha(grey: np.ndarray) -> bytes:
    height, width = grey.shape
    rows = np.stack([grey, np.full_like(grey, 65535)], axis=2).astype(">u2")
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 4, 0, 0, 0])
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND")


def of_every_mode(image: Image.Image, orientation: int = 1) -> dict[str, bytes]:
    """An RGB image in every mode and format, with this orientation in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()
    clear = image.convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    colours = np.asarray(image).astype(np.uint16)
    files = {
        **{
            f"JPEG {mode}": encode(image.convert(mode), "JPEG", exif=block, quality=90) for mode in ("L", "RGB", "CMYK")
        },
        "JPEG progressive": encode(image, "JPEG", exif=block, quality=90, progressive=True),
        "JPEG restarts": encode(image, "JPEG", exif=block, quality=90, restart_marker_blocks=1, icc_profile=b"icc"),
        "MPO": encode(image, "MPO", exif=block, quality=90, save_all=True, append_images=[image]),
        **{f"PNG {mode}": encode(image.convert(mode), exif=block) for mode in ("L", "LA", "P", "RGB")},
        "PNG RGBA": encode(clear, exif=block),
        "PNG tRNS": encode(image.convert("P"), exif=block, transparency=bytes([0, 128, 255])),
        "PNG text": encode(image, exif=block, icc_profile=b"icc"),
        "PNG 16": encode(Image.fromarray(grey << 8), exif=block),
        "APNG": encode(image, exif=block, save_all=True, append_images=[clear]),
        "WebP": encode(image, "WEBP", exif=block, quality=90),
        "WebP alpha": encode(clear, "WEBP", exif=block, quality=90),
        "WebP lossless": encode(clear, "WEBP", exif=block, lossless=True),
        "WebP animation": encode(image, "WEBP", exif=block, quality=90, save_all=True, append_images=[clear]),
    }
    tiff = (b"eXIf", block.removeprefix(b"Exif\0\0"))
    files["PNG RGB 12"] = insert_chunks(png_of_16_bit_colours(colours << 4), tiff)
    files["PNG LA 16"] = insert_chunks(png_of_16_bit_grey_with_alpha(grey << 8), tiff)
    return files
