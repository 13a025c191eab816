"""BentoML, as its documentation of adaptive batching shows it.

A batching endpoint takes a list, and a list of files is sent as a form. BentoML adapts the batching window by itself.
`max_latency_ms`, the age at which it refuses a request, stays at its default.
"""

from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from benchmarks.peers.model import MAX_BATCH, from_environment, load


@bentoml.service
class Classifier:
    def __init__(self) -> None:
        self.model = load(*from_environment())

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)
    def classify(self, images: list[Path]) -> list[Any]:
        return self.model.infer(np.stack([self.model.decode(image.read_bytes()) for image in images]))
