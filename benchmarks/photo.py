"""The picture of the benchmarks: a real photograph, 500x375, as a camera's JPEG."""

from __future__ import annotations

import io

from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

SIZE = (500, 375)
QUALITY = 92


def photo() -> bytes:
    """scikit-learn's `china.jpg`, cut to 4:3 and saved at 500x375: about 64 kB."""
    image = ImageOps.fit(Image.fromarray(load_sample_image("china.jpg")), SIZE, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
