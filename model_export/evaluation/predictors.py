"""Networks that can be evaluated: weights in PyTorch, and published models as the service runs them."""

from __future__ import annotations

import functools
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch

from model_export.errors import InputError
from model_export.weights import Loaded
from service.card import MODEL_FILES, Architecture, Label, ModelCard, Preprocessing, Published, verify_digests
from service.engine import FILES, INPUT, DynamicEngine, Engine
from service.loading import load_engine
from service.providers import PrecisionChoice, ProviderChoice, open_session, usable_cores

Device = Literal["cpu", "cuda"]


class Predictor(ABC):
    """From pixels to logits.

    Attributes:
        name: for people; says what computes, where that matters.
        labels: the classes, by class id.
    """

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[Label, ...]

    @abstractmethod
    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W), RGB, of any one size -> float32 (N, classes)."""


class TorchPredictor(Predictor):
    """Weights in PyTorch, in fp32: the graph that is exported, before its export.

    Raises:
        InputError: there is no such device.
    """

    def __init__(self, loaded: Loaded, name: str, device: Device = "cpu") -> None:
        if device == "cuda":
            if not torch.cuda.is_available():
                raise InputError("PyTorch finds no CUDA device here: evaluate with `--device cpu`")
            # TF32, the default for convolutions, has the mantissa of fp16: that is not the fp32 of the other figures.
            torch.backends.cudnn.allow_tf32 = False
        self.name = name
        self.architecture = loaded.net.architecture
        self.preprocessing = loaded.preprocessing
        self.labels = loaded.labels
        self.device = device
        self.graph = loaded.serving_graph().to(device)

    def logits(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits, _, _ = self.graph(torch.from_numpy(images).to(self.device))
            return logits.cpu().numpy()


class OnnxPredictor(Predictor):
    """A published model in the service's own engine, digests and self-test included.

    Raises:
        CardError: the folder cannot be used.
        ProviderUnavailable, SelfTestFailed: as `service.engine.load_engine`.
    """

    def __init__(
        self, published: Published, provider: ProviderChoice = "auto", precision: PrecisionChoice = "auto"
    ) -> None:
        self.folder = published.path
        self.card = card = ModelCard.read(self.folder)
        verify_digests(self.folder, card)
        self.engine = load_engine(self.folder, card, provider=provider, precision=precision, threads=usable_cores())
        self.name = f"{card.name} {card.version} ({self.engine.provider}, {self.engine.compute})"
        self.architecture = card.architecture
        self.preprocessing = card.preprocessing
        self.labels = card.labels

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Raises InputError for images of another size than the crop where the graph cannot take them."""
        crop = self.preprocessing.crop
        engine = self.engine if images.shape[2:] == (crop, crop) else self._any_size
        return engine.infer(images)["logits"]

    @functools.cached_property
    def _any_size(self) -> Engine:
        """The same graph, on the same provider, with height and width left open.

        Only the declared shapes are in the way: the graph pools over whatever it is given.
        """
        if self.preprocessing.mean_image:
            raise InputError(
                f"{self.name} subtracts a mean per pixel, so its ONNX file takes images of its own size only: give the "
                "PyTorch weights instead, or another method than multi-scale"
            )
        file = MODEL_FILES[FILES[self.engine.compute]]
        model = onnx.load(self.folder / file)
        for value in (*model.graph.input, *model.graph.output):
            # the batch and the channels stay; logits and embedding have nothing behind them
            for axis, dimension in enumerate(value.type.tensor_type.shape.dim[2:]):
                dimension.dim_param = f"{value.name}_{'height' if axis == 0 else 'width'}"
        assert model.graph.input[0].name == INPUT
        del model.graph.value_info[:]  # inferred for the fixed size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            onnx.save(model, path)
            return DynamicEngine(open_session(path, self.engine.provider, self.engine.compute, threads=usable_cores()))
