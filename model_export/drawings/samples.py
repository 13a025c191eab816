"""The fixed sample of drawings that export gates, calibration and benchmarks show to a network."""

from __future__ import annotations

import numpy as np

from model_export.drawings.pictures import pixels
from service.runtime.preprocessing import Preprocessing


def sample_images(count: int, preprocessing: Preprocessing) -> np.ndarray:
    """The first `count` drawings through the service's preprocessing: uint8 `(count, channels, height, width)`, RGB."""
    return np.stack([pixels(0, index, preprocessing) for index in range(count)])
