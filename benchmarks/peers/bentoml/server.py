"""BentoML, as its documentation of adaptive batching shows it.

An endpoint that batches takes a list, and a list of files is sent as a form. Its window adapts itself; `max_latency_ms`
is the age at which it refuses a request, left at its default.
"""

from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from benchmarks.peers.model import MAX_BATCH, asked_for, load


@bentoml.service
class Classifier:
    def __init__(self) -> None:
        self.model = load(*asked_for())

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)
    def classify(self, images: list[Path]) -> list[Any]:
        return self.model.infer(np.stack([self.model.decode(image.read_bytes()) for image in images]))
