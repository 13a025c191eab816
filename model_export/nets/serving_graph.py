"""The graph that is exported and served: normalisation, the network, and its three outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model_export.nets.resnet import ResNet
from service.runtime.preprocessing import Preprocessing, Views

CENTRE = 4  # of the views of an image, the number of its centre


class Normalise(nn.Module):
    """`(images - mean) / std`: uint8 or float `(N, 3, H, W)` in 0 to 255 -> float32 `(N, 3, H, W)`.

    Images of one channel, `(N, 1, H, W)`, come out with three, too: each has the mean and std of its own.

    Args:
        mean_image: float `(3, height, width)` in 0 to 255, a mean per pixel (section 3.4 of the paper). Images of
            another size, as in multi-scale testing, have `preprocessing.mean` subtracted instead.
    """

    mean: Tensor  # (1, 3, 1, 1), in 0 to 255
    scale: Tensor  # (1, 3, 1, 1)
    mean_image: Tensor | None  # (1, 3, height, width), in 0 to 255

    def __init__(self, preprocessing: Preprocessing, mean_image: Tensor | None = None) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("mean", 255 * mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * std.view(1, 3, 1, 1)), persistent=False)
        self.register_buffer("mean_image", None if mean_image is None else mean_image[None].float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        fits = self.mean_image is not None and self.mean_image.shape[2:] == images.shape[2:]
        mean = self.mean_image if fits and self.mean_image is not None else self.mean
        return (images.float() - mean) * self.scale


class ServingGraph(nn.Module):
    """The network as it is exported: uint8 images in; logits, embedding and feature map out.

    Normalisation is part of the graph, so clients send uint8, a quarter of the bytes of float32.
    """

    def __init__(self, net: ResNet, preprocessing: Preprocessing, mean_image: Tensor | None = None) -> None:
        super().__init__()
        self.net = net
        self.normalise = Normalise(preprocessing, mean_image)
        self.views = preprocessing.views

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 `(N, channels, H, W)` -> logits `(N, classes)`, embedding `(N, C)`, feature map `(N, C, h, w)`.

        With several views, the logits are logarithms of the mean probabilities, the embedding is the mean, and the
        feature map is that of the centre.
        """
        if self.views is None:
            return self._of(images)
        logits, embedding, feature_map = self._of(cut(images, self.views))
        count = self.views.count
        logarithms, embeddings, maps = (
            output.reshape(count, -1, *output.shape[1:])
            for output in (torch.log_softmax(logits, 1), embedding, feature_map)
        )
        return torch.logsumexp(logarithms, 0) - math.log(count), embeddings.mean(0), maps[CENTRE]

    def _of(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature_map = self.net.features(self.normalise(images))
        embedding = torch.flatten(self.net.avgpool(feature_map), 1)
        return self.net.fc(embedding), embedding, feature_map


def cut(images: Tensor, views: Views) -> Tensor:
    """`(N, channels, H, W)` -> `(count * N, channels, size, size)`: first the top left corners of all images, then the
    other corners, the centres, and the same mirrored.
    """
    height, width, size = *images.shape[2:], views.size
    bottom, right = height - size, width - size
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2)))
    parts = [images[:, :, top : top + size, left : left + size] for top, left in places]
    if views.count == 10:
        parts += [part.flip(3) for part in parts]
    return torch.cat(parts)
