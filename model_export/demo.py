"""A ResNet-18 that tells drawings apart, for machines that can download no weights. It ships with the project.

Accuracy is measured on JPEG files through the decoder of the service, so it is that of serving.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from model_export.datasets.base import Data
from model_export.datasets.drawn import Drawings
from model_export.evaluation.evaluating import evaluate
from model_export.evaluation.predictors import TorchPredictor
from model_export.evaluation.recording import accuracy_of
from model_export.training.recipe import RECIPES, Recipe
from model_export.training.start import begin
from model_export.training.trainer import Machine, Trainer
from model_export.weight_files import Record, save_safetensors
from model_export.weights import Loaded, load_file
from service.card import Architecture, Weights

# Made by `python -m model_export demo`; on another kind of processor that makes an equal, not the same bits.
SHIPPED = Path(__file__).with_name("data") / "resnet18-demo.safetensors"

PICTURES = 6656  # each seen once
HELD_OUT = 600
CHECKED = 48  # by the trainer itself, which wants to see some


def shipped_demo() -> Loaded:
    """The demo as it ships."""
    loaded = load_file(SHIPPED)
    source = "trained on drawings (seed 0) by `python -m model_export demo`, shipped with the project"
    return loaded._replace(weights=loaded.weights.model_copy(update={"source": source}))


def train_demo(
    seed: int = 0,
    *,
    recipe: Recipe = RECIPES["demo"],
    pictures: int = PICTURES,
    held_out: int = HELD_OUT,
    machine: Machine = Machine(),  # noqa: B008 (frozen)
) -> Loaded:
    """Trains a ResNet-18 to tell drawings apart: three to eight minutes on two cores.

    The same seed gives the same weights on the same kind of processor. Before their accuracy is measured, they are
    rounded to what a file of half precision holds.
    """
    train = Drawings(seed=seed, count=pictures)
    test = Drawings(seed=seed, count=held_out, first=pictures)
    check = Drawings(seed=seed, count=CHECKED, first=pictures + held_out)
    start = begin(Architecture(depth=18, num_classes=len(train.classes)), recipe, train, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(start, recipe, Data(train, check), Path(folder), seed=seed, machine=machine)
        trainer.run()
    net = trainer.net.cpu().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if _halved(parameter):
                parameter.copy_(parameter.half())
    weights = Weights(source=f"trained here on drawings (seed {seed})")
    loaded = Loaded(net, weights, start.labels, start.preprocessing, accuracy=None)
    return loaded._replace(accuracy=accuracy_of(evaluate(TorchPredictor(loaded, "demo", "cpu"), test)))


def save_demo(loaded: Loaded, path: Path) -> None:
    """Writes the weights in half precision (batch norms in full), with what they are for.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.half() if _halved(tensor) else tensor for name, tensor in loaded.net.state_dict().items()}
    record = Record(
        architecture=loaded.net.architecture,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
        accuracy=loaded.accuracy,
    )
    save_safetensors(tensors, path, record)


def _halved(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of convolutions or the classifier, which hold nearly all weights."""
    return tensor.ndim >= 2
