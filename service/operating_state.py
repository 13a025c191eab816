"""What the operator compares the other metrics with: readiness, the target of the queue, and the memory limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from service.runtime.machine import nearest_memory_limit

if TYPE_CHECKING:
    from prometheus_client import Metric


class OperatingState:
    """Looked up at each reading of the metrics, in the process that is asked."""

    def __init__(self, ready: Callable[[], bool], target_wait: float) -> None:
        """
        Args:
            ready: whether load balancers should send requests here; called from any thread.
            target_wait: the longest wait with which images are admitted, in seconds.
        """
        self._ready = ready
        self._target_wait = target_wait

    def collect(self) -> Iterator[Metric]:
        """For a registry of prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        yield GaugeMetricFamily("resnet_ready", "1 if requests should be sent here, as /healthz/ready", self._ready())
        yield GaugeMetricFamily(
            "resnet_target_wait_seconds",
            "The longest wait in the queue with which requests are admitted (the setting target_wait_ms)",
            self._target_wait,
        )
        if memory := nearest_memory_limit():
            yield GaugeMetricFamily(
                "resnet_memory_used_bytes",
                "Memory in use under the limit that would be met first, the container's or the machine's",
                memory.used,
            )
            yield GaugeMetricFamily("resnet_memory_limit_bytes", "That limit", memory.limit)
