"""The slope of memory, from invented samples, and the mixed uploads, at a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import measure, mixed_uploads, slope
from benchmarks.serving import service


def test_flat_memory_has_no_slope() -> None:
    assert slope(dict.fromkeys(range(0, 10000, 500), 300.0)) == (0, 0, 0)


def test_the_slope_is_that_of_the_growth() -> None:
    assert slope({requests: 300 + requests / 1000 for requests in range(0, 10_000, 500)}) == pytest.approx((100,) * 3)


def test_memory_that_settles_is_no_growth() -> None:
    settling = {requests: 100 + requests / 10 for requests in range(0, 2000, 100)}
    assert slope(settling | dict.fromkeys(range(2000, 10_001, 1000), 300.0)) == (0, 0, 0)


def test_the_interval_holds_noise() -> None:
    found = slope({requests: 300 + (requests // 500 * 7) % 5 for requests in range(0, 10_000, 500)})
    assert found.low < 0 < found.high


@pytest.mark.e2e
@pytest.mark.slow
def test_the_service_answers_mixed_uploads_as_expected(tiny_dir: Path) -> None:
    with service({"models-dir": tiny_dir, "provider": "cpu", "max-batch": 4}) as running:
        found = measure(running.url, running.pid, 3 * len(mixed_uploads()))
    assert min(found) == 0
    assert max(found) >= 3 * len(mixed_uploads())
    assert all(mb > 0 for mb in found.values())
