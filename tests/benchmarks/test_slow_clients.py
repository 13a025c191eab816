"""Good clients beside hostile ones: measured at a real service, and rows of invented figures."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.hostile_uploads import attacks
from benchmarks.serving import service
from benchmarks.slow_clients import Measured, counted, pairs, row


@pytest.mark.e2e
@pytest.mark.slow
def test_good_clients_are_measured_without_and_beside_an_attack(tiny_dir: Path) -> None:
    options = {"models-dir": tiny_dir, "provider": "cpu", "max-batch": 4, "client-timeout": 0.5}
    with service(options) as running:
        *_, announced = itertools.islice(attacks(running.url), 4)
        found = pairs(running, announced._replace(clients=5), rounds=2, seconds=4, idle_mb=0)
    for without, beside in found:
        assert without.answered > 0
        assert without.failed == beside.failed == 0
        assert not without.closed
        assert not without.ends
        assert beside.closed["body_too_slow"] >= 5
        assert beside.ends["408 request-timeout"] >= 5
        assert min(without.peak_mb, beside.peak_mb) > 0
    cells, _ = row("stopped", found)
    assert cells[0] == "stopped"


def test_a_row_adds_up_what_was_cut_off() -> None:
    without = Measured(10, 0, 20.0, 40.0, 5.0, Counter(), Counter())
    beside = Measured(
        9, 1, 30.0, 60.0, 50.0, Counter(body_too_slow=3), Counter({"408 request-timeout": 2, "closed": 4})
    )
    cells, ratio = row("slow", [(without, beside), (without, beside)])
    assert ratio == pytest.approx((1.5, 1.5, 1.5, 1.5))
    assert cells[5:] == ["1.50 (1.50–1.50)", "2 of 20", "50", "5", "6 body_too_slow", "8 closed, 4 408 request-timeout"]
    assert counted([Counter()]) == "–"
