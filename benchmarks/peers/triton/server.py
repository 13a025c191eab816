"""Triton, as the documentation of its Python backend shows it, with ONNX Runtime. Takes raw bytes in a binary tensor.

The server is the one in PyTriton's wheel, without PyTriton: the wheel has no ONNX Runtime backend. `config.pbtxt` asks
for batches. They come as several requests, each with one image.
"""

from __future__ import annotations  # those of Triton do not exist yet when this is imported

import os
import sys

import numpy as np
import triton_python_backend_utils as triton

sys.path += os.environ["PYTHONPATH"].split(os.pathsep)  # the interpreter inside Triton does not heed it

from benchmarks.peers.model import Prediction, from_environment, load


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.classifier = load(*from_environment())

    def execute(self, requests: list[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        files = [triton.get_input_tensor_by_name(request, "image").as_numpy().item() for request in requests]
        predictions = self.classifier.infer(np.stack([self.classifier.decode(file) for file in files]))
        return [_response(best) for best in predictions]


def _response(best: list[Prediction]) -> triton.InferenceResponse:
    class_ids = np.array([[prediction["class_id"] for prediction in best]], np.int64)
    probabilities = np.array([[prediction["probability"] for prediction in best]], np.float32)
    return triton.InferenceResponse([triton.Tensor("class_id", class_ids), triton.Tensor("probability", probabilities)])
