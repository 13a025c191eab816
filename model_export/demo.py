"""A ResNet-18 trained on the spot, on drawings, for machines that can download no weights: some minutes.

Held-out accuracy is measured on JPEG files through the decoder of the service, so it is that of serving.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from model_export.datasets.base import Data
from model_export.datasets.drawn import Drawings
from model_export.evaluation.evaluating import evaluate
from model_export.evaluation.predictors import TorchPredictor
from model_export.evaluation.recording import accuracy_of
from model_export.training.recipe import RECIPES, Recipe
from model_export.training.start import begin
from model_export.training.trainer import Machine, Trainer
from model_export.weights import Loaded
from service.card import Architecture, Weights

PICTURES = 6656  # each seen once
HELD_OUT = 600
CHECKED = 48  # by the trainer itself, which wants to see some


def train_demo(
    seed: int = 0,
    *,
    recipe: Recipe = RECIPES["demo"],
    pictures: int = PICTURES,
    held_out: int = HELD_OUT,
    machine: Machine = Machine(),  # noqa: B008 (frozen)
) -> Loaded:
    """Trains a ResNet-18 to tell drawings apart. The same seed gives the same weights on the same machine."""
    train = Drawings(seed=seed, count=pictures)
    test = Drawings(seed=seed, count=held_out, first=pictures)
    check = Drawings(seed=seed, count=CHECKED, first=pictures + held_out)
    start = begin(Architecture(depth=18, num_classes=len(train.classes)), recipe, train, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(start, recipe, Data(train, check), Path(folder), seed=seed, machine=machine)
        trainer.run()
    net = trainer.net.cpu().eval()
    weights = Weights(source=f"trained here on drawings (seed {seed})")
    loaded = Loaded(net, weights, start.labels, start.preprocessing, accuracy=None)
    return loaded._replace(accuracy=accuracy_of(evaluate(TorchPredictor(loaded, "demo", "cpu"), test)))
