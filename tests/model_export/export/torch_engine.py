"""An engine without an exported file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_export.export.parity_gate import torch_answers
from model_export.nets.serving_graph import ServingGraph
from service.runtime.graph import OUTPUTS, Output


class TorchEngine:
    """Answers with the PyTorch network itself, for gates that do not depend on the export, which takes seconds."""

    def __init__(self, graph: ServingGraph) -> None:
        self._graph = graph

    def infer(self, images: np.ndarray, outputs: Sequence[Output] = ("logits",)) -> dict[Output, np.ndarray]:
        answers = dict(zip(OUTPUTS, torch_answers(self._graph, images), strict=True))
        return {output: answers[output] for output in outputs}
