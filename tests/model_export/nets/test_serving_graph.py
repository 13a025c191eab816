import numpy as np
import pytest
import torch
from PIL import Image

from model_export.evaluation.crops import ten_crops
from model_export.nets.serving_graph import Normalise, ServingGraph
from model_export.weights.random_weights import random_weights
from service.runtime.images.resizing import to_array
from service.runtime.model_card import Architecture
from service.runtime.preprocessing import Preprocessing, Views

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


@pytest.mark.parametrize("count", [5, 10])
def test_several_views_are_averaged_as_in_ten_crop_testing(count: int) -> None:
    loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8))
    views = Views.model_validate({"count": count, "size": 32})
    preprocessing = loaded.preprocessing.model_copy(update={"resize": 36, "crop": 36, "views": views})
    graph = ServingGraph(loaded.net, preprocessing).eval()
    plain = ServingGraph(loaded.net, loaded.preprocessing).eval()
    crops = ten_crops(image, loaded.preprocessing.model_copy(update={"resize": 36}))[:count]
    with torch.no_grad():
        batch = torch.from_numpy(np.stack([to_array(image)] * 2))  # the same image twice: in a batch, nothing mixes
        batch[1] = 255 - batch[1]
        logits, embedding, feature_map = graph(batch)
        each, embeddings, maps = plain(torch.from_numpy(crops))
    expected = torch.softmax(each.double(), 1).mean(0)
    assert torch.allclose(torch.softmax(logits.double(), 1)[0], expected, atol=1e-6)
    assert torch.allclose(logits.exp().sum(1), torch.ones(2), atol=1e-5)
    assert torch.allclose(embedding[0], embeddings.mean(0), atol=1e-5)
    assert torch.allclose(feature_map[0], maps[4], atol=1e-5)
    assert not torch.allclose(logits[0], logits[1])
