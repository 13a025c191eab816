"""TorchServe, as its documentation of custom handlers shows it, with ONNX Runtime. Takes raw bytes.

Its own image classifier needs torchvision, which does not import with PyTorch's build for CPUs.
"""

from typing import Any

import numpy as np
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.model import Prediction, from_environment, load


class Handler(BaseHandler):
    def initialize(self, context: Context) -> None:
        self.classifier = load(*from_environment())
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> np.ndarray:
        return np.stack([self.classifier.decode(bytes(request.get("data") or request["body"])) for request in data])

    def inference(self, data: np.ndarray) -> list[list[Prediction]]:
        return self.classifier.infer(data)

    def postprocess(self, data: list[list[Prediction]]) -> list[list[Prediction]]:
        return data
