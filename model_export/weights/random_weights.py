"""Networks with seeded random weights that behave numerically like trained ones: for benchmarks and tests.

Their answers mean nothing. But their batch norms hold the statistics of real activations, so a wrongly folded batch
norm, or a v1 taken for a v1.5, changes the answers; with the initial statistics (0 and 1) it would not.
"""

from __future__ import annotations

import torch
from torch import nn

from model_export.drawings.samples import sample_images
from model_export.nets.resnet import BasicBlock, Bottleneck, build
from model_export.nets.serving_graph import ServingGraph
from model_export.weights.defaults import usual_preprocessing
from model_export.weights.labels import imagenet_labels
from model_export.weights.loading import Loaded
from service.runtime.model_card import Architecture, Label, Weights

CALIBRATION_IMAGES = 8


def random_weights(architecture: Architecture, seed: int = 0) -> Loaded:
    """A network in evaluation mode with He-initialised convolutions and trained-like batch norms.

    Raises:
        ValueError: the family has no such depth.
    """
    preprocessing = usual_preprocessing(architecture.family)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = build(architecture)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.momentum = None  # running statistics become the plain average over all batches
        for module in net.modules():
            # A trained block changes little of what its shortcut carries. With large changes in every block of
            # ResNet-152, rounding errors would grow from block to block as in no trained network.
            if isinstance(module, BasicBlock):
                module.bn2.weight.uniform_(0.1, 0.5)
            elif isinstance(module, Bottleneck):
                module.bn3.weight.uniform_(0.1, 0.5)
        images = torch.from_numpy(sample_images(CALIBRATION_IMAGES, preprocessing))
        ServingGraph(net.train(), preprocessing)(images)
    labels = (
        imagenet_labels()
        if architecture.num_classes == 1000
        else tuple(Label(name=f"class {i}") for i in range(architecture.num_classes))
    )
    source = f"random (seed {seed}), for benchmarks: its answers mean nothing"
    return Loaded(net.eval(), Weights(source=source), labels, preprocessing, accuracy=None)
