import pytest
import torch

from model_export.normalise import Normalise
from service.card import Preprocessing

P = Preprocessing(resize=8, crop=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))


def test_per_channel() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    x = Normalise(P)(images)
    assert x.dtype == torch.float32
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], (images[:, channel] / 255 - P.mean[channel]) / P.std[channel])


@pytest.mark.parametrize("side", [8, 12])
def test_per_pixel_where_the_size_fits(side: int) -> None:
    mean_image = torch.rand(3, 8, 8) * 255
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    x = Normalise(P, mean_image)(images)
    if side == 8:
        std = torch.tensor(P.std).view(3, 1, 1)
        torch.testing.assert_close(x, (images.float() - mean_image) / (255 * std))
    else:
        assert torch.equal(x, Normalise(P)(images))
