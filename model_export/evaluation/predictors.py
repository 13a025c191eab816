"""Networks to evaluate: weights in PyTorch, and published models in the service's engine."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import onnx
import torch

from model_export.errors import InputError
from model_export.evaluation.sessions import open_graph
from model_export.weights.loading import Loaded
from service.runtime.choices import FILES, PrecisionChoice, ProviderChoice
from service.runtime.engine import DynamicEngine, Engine
from service.runtime.graph import INPUT
from service.runtime.head import Head
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_card import Architecture, Label
from service.runtime.model_folder import MODEL_FILES, ModelVersion, read_card, verify_digests
from service.runtime.preprocessing import Preprocessing

Device = Literal["cpu", "cuda"]


class Predictor(ABC):
    """A network that maps pixels to logits.

    Attributes:
        name: to show; for published models with provider and precision.
        labels: the classes, by class id.
        temperature: by which the service divides the logits before it answers probabilities.
    """

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    head: Head
    temperature: float = 1.0

    @abstractmethod
    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W), RGB, any height and width -> float32 (N, classes)."""


class TorchPredictor(Predictor):
    """Weights in PyTorch, in fp32: the graph as it is exported, normalisation included.

    Raises:
        InputError: the device does not exist.
    """

    def __init__(self, loaded: Loaded, name: str, device: Device = "cpu") -> None:
        if device == "cuda":
            if not torch.cuda.is_available():
                raise InputError("PyTorch finds no CUDA device here: evaluate with `--device cpu`")
            # TF32, PyTorch's default for convolutions, has the mantissa of fp16: not comparable with fp32 elsewhere.
            torch.backends.cudnn.allow_tf32 = False
        self.name = name
        self.architecture = loaded.net.architecture
        self.preprocessing = loaded.preprocessing
        self.labels = loaded.labels
        self.head = loaded.head
        self.device = device
        self.graph = loaded.serving_graph().to(device)

    def logits(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits, _, _ = self.graph(torch.from_numpy(images).to(self.device))
            return logits.cpu().numpy()


class OnnxPredictor(Predictor):
    """A published model in the service's own engine, after its digests and self-test are verified.

    Raises:
        CardError: the folder is damaged or incomplete.
        ProviderUnavailable, SelfTestFailed: as `service.runtime.loading.load_engine`.
    """

    def __init__(
        self, version: ModelVersion, provider: ProviderChoice = "auto", precision: PrecisionChoice = "auto"
    ) -> None:
        self.folder = version.path
        self.card = card = read_card(self.folder)
        verify_digests(self.folder, card)
        self.engine = load_engine(self.folder, card, provider=provider, precision=precision, threads=usable_cores())
        self.name = f"{card.name} {card.version} ({self.engine.info.provider}, {self.engine.info.precision})"
        self.architecture = card.architecture
        self.preprocessing = card.preprocessing
        self.labels = card.labels
        self.head = card.head
        self.temperature = card.temperature

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Raises InputError if the images do not have the crop's size and the graph takes no other."""
        engine = self.engine if images.shape[1:] == self.preprocessing.shape else self._any_size
        return engine.infer(images)["logits"]

    @functools.cached_property
    def _any_size(self) -> Engine:
        """The same graph on the same provider, for any height and width.

        Only the declared shapes need to change: the pooling covers feature maps of any size.
        """
        if self.preprocessing.mean_image:
            raise InputError(
                f"{self.name} subtracts a mean per pixel, so its ONNX file takes images of one size only: give the "
                "PyTorch weights instead, or another method than multi-scale"
            )
        info = self.engine.info
        model = onnx.load(self.folder / MODEL_FILES[FILES[info.precision]])
        for value in (*model.graph.input, *model.graph.output):
            # after batch and channels; logits and embedding have no such axes
            for axis, dimension in enumerate(value.type.tensor_type.shape.dim[2:]):
                dimension.dim_param = f"{value.name}_{'height' if axis == 0 else 'width'}"
        assert model.graph.input[0].name == INPUT
        del model.graph.value_info[:]  # inferred for the fixed size
        return DynamicEngine.of(open_graph(model, info.provider, info.precision))
