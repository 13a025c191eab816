"""The statistics extension: what the metrics have counted, in Triton's terms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Total:
    """How often something has happened, and how many nanoseconds all of it took together."""

    count: int = 0
    ns: int = 0


class ModelStatistics(NamedTuple):
    """Statistics of a model since the service started, over all its versions and, with workers, all processes.

    Attributes:
        inference_count: images computed, those that nobody waited for any more included.
        execution_count: batches computed.
        success, fail: images, each with its whole time in the service (0 for those that failed).
        queue, compute_input, compute_infer: the same images waiting, being decoded, and in the engine. An image's time
            in the engine is that of its whole batch.
        compute_output: the same images in no time: answers are not timed. Triton's tools want the counts of all
            stages to be equal.
    """

    name: str
    version: str
    inference_count: int
    execution_count: int
    success: Total
    fail: Total
    queue: Total
    compute_input: Total
    compute_infer: Total
    compute_output: Total


def read(name: str, version: str, metrics: Metrics) -> ModelStatistics:
    """What has been counted for a model. With workers it reads files: call it on a thread."""
    images: dict[str, float] = defaultdict(float)
    stages: dict[tuple[str, str], float] = defaultdict(float)
    batches = computed = 0.0
    for sample in metrics.samples("resnet_images", "resnet_stage_seconds", "resnet_batch_size"):
        if sample.labels.get("model") != name:
            continue
        if sample.name == "resnet_images_total":
            images[sample.labels["outcome"]] += sample.value
        elif sample.name == "resnet_batch_size_count":
            batches += sample.value
        elif sample.name == "resnet_batch_size_sum":
            computed += sample.value
        elif sample.name.startswith("resnet_stage_seconds_"):
            stages[sample.labels["stage"], sample.name.rpartition("_")[2]] += sample.value

    def total(stage: str) -> Total:
        return Total(int(stages[stage, "count"]), round(1e9 * stages[stage, "sum"]))

    images.pop("ok", None)
    return ModelStatistics(
        name,
        version,
        inference_count=int(computed),
        execution_count=int(batches),
        success=total("total"),
        fail=Total(int(sum(images.values()))),
        queue=total("queue"),
        compute_input=total("decode"),
        compute_infer=total("inference"),
        compute_output=Total(total("inference").count),
    )
