from __future__ import annotations

import numpy as np

from model_export.drawings.samples import sample_images
from service.runtime.preprocessing import Preprocessing


def test_the_sample_is_always_the_same_and_varied() -> None:
    images = sample_images(6, Preprocessing())
    assert images.shape == (6, 3, 224, 224)
    assert np.array_equal(images, sample_images(6, Preprocessing()))
    assert len({image.tobytes() for image in images}) == 6
