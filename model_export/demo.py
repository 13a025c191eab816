"""The demo: a ResNet-18 that classifies drawings, for machines that cannot download weights.

Its weights ship with the project. Accuracy is measured on JPEG files through the service's decoder, as in serving.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from model_export.datasets.base import Data
from model_export.datasets.drawings import Drawings
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.predictors import TorchPredictor
from model_export.evaluation.recording import accuracy_of
from model_export.training.machine import Machine
from model_export.training.recipe import Recipe
from model_export.training.recipes import RECIPES
from model_export.training.start import begin
from model_export.training.trainer import Trainer
from model_export.weights.loading import Loaded, load_file
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.model_card import Architecture, Weights

# Written by `python -m model_export demo`. On another kind of processor, training yields other bits, as accurate.
SHIPPED = Path(__file__).with_name("data") / "resnet18-demo.safetensors"

LICENSE = "Apache-2.0"  # the project's

DEMO_NAME = "resnet18-demo"  # under which it is published

PICTURES = 6656  # each seen once
HELD_OUT = 600
VALIDATED = 48  # a validation set for the trainer, which needs one


def shipped_demo() -> Loaded:
    """The demo's weights as they ship."""
    loaded = load_file(SHIPPED)
    source = "trained on drawings (seed 0) by `python -m model_export demo`, shipped with the project"
    return loaded._replace(weights=loaded.weights.model_copy(update={"source": source, "license": LICENSE}))


def train_demo(
    seed: int = 0,
    *,
    recipe: Recipe = RECIPES["demo"],
    pictures: int = PICTURES,
    held_out: int = HELD_OUT,
    machine: Machine = Machine(),  # noqa: B008 (frozen)
) -> Loaded:
    """Trains a ResNet-18 to classify drawings: three to eight minutes on two cores.

    On the same kind of processor, the same seed gives the same weights. They are rounded to half precision, as
    `save_demo` stores them, before their accuracy is measured.

    Args:
        pictures: to train on.
        held_out: to measure accuracy on.
    """
    train = Drawings(seed=seed, count=pictures)
    test = Drawings(seed=seed, count=held_out, first=pictures)
    val = Drawings(seed=seed, count=VALIDATED, first=pictures + held_out)
    start = begin(Architecture(depth=18, num_classes=len(train.classes)), recipe, train, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(start, recipe, Data(train, val), Path(folder), seed=seed, machine=machine)
        trainer.run()
    net = trainer.net.cpu().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if _halved(parameter):
                parameter.copy_(parameter.half())
    weights = Weights(source=f"trained here on drawings (seed {seed})")
    loaded = Loaded(net, weights, start.labels, start.preprocessing, accuracy=None, training=trainer.training)
    return loaded._replace(accuracy=accuracy_of(evaluate(TorchPredictor(loaded, "demo", "cpu"), test)))


def save_demo(loaded: Loaded, path: Path) -> None:
    """Writes the weights in half precision, batch norms in full, with architecture, labels and preprocessing.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.half() if _halved(tensor) else tensor for name, tensor in loaded.net.state_dict().items()}
    record = Record(
        architecture=loaded.net.architecture,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
        accuracy=loaded.accuracy,
        training=loaded.training,
    )
    save_safetensors(tensors, path, record)


def _halved(tensor: torch.Tensor) -> bool:
    """Whether a tensor is stored in half precision: the weights of convolutions and of the classifier."""
    return tensor.ndim >= 2
