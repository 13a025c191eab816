"""What the metrics say of the service itself."""

from __future__ import annotations

import pytest

from service import operating_state
from service.metrics import Metrics
from service.operating_state import OperatingState
from service.runtime.machine import Memory


def values(metrics: Metrics) -> dict[str, float]:
    return {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}


def test_it_is_looked_up_at_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, ready, memory = Metrics(), [False], [Memory(1, 5)]
    monkeypatch.setattr(operating_state, "nearest_memory_limit", lambda: memory[0])
    metrics.look_up(OperatingState(lambda: ready[0], 1.5))
    found = values(metrics)
    assert (found["resnet_ready"], found["resnet_target_wait_seconds"]) == (0, 1.5)
    assert (found["resnet_memory_used_bytes"], found["resnet_memory_limit_bytes"]) == (1, 5)
    ready[0], memory[0] = True, Memory(2, 5)
    found = values(metrics)
    assert (found["resnet_ready"], found["resnet_memory_used_bytes"]) == (1, 2)


def test_a_system_that_tells_no_limit_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    monkeypatch.setattr(operating_state, "nearest_memory_limit", lambda: None)
    metrics.look_up(OperatingState(lambda: True, 1.0))
    assert not any(name.startswith("resnet_memory") for name in values(metrics))
