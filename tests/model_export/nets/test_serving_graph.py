import pytest
import torch

from model_export.nets.serving_graph import Normalise, ServingGraph
from model_export.weights.random_weights import random_weights
from service.runtime.model_card import Architecture
from service.runtime.preprocessing import Preprocessing

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


def test_normalisation_is_that_of_the_preprocessing() -> None:
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    graph = ServingGraph(random_weights(Architecture(depth=18)).net, preprocessing)
    seen: list[torch.Tensor] = []
    graph.net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    graph(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([(1 - 0.1) / 0.5, 1 - 0.2, (1 - 0.3) / 2])
