"""The interface of the ONNX graph: the names of its input, its outputs and its batch dimension."""

from __future__ import annotations

from typing import Literal

INPUT = "image"  # uint8 (N, channels, height, width) of the card, RGB if there are three
Output = Literal["logits", "embedding", "feature_map"]
OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "feature_map")

# The name of the batch dimension in every ONNX file that `model_export` writes.
BATCH_DIMENSION = "batch"
