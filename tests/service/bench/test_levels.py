"""Figures of one level of load."""

from __future__ import annotations

import pytest

from service.bench.levels import Level


def level(count: int, *, connections: int | None = 8, rate: float | None = None, cpu: float = 0.1) -> Level:
    return Level(connections, rate, 2.0, [float(place) for place in range(1, count + 1)], {"503 overloaded": 2}, cpu)


def test_a_percentile_needs_an_answer_above_it() -> None:
    assert [level(1000).percentile(percent) for percent in (50, 99, 99.9)] == [500, 990, 999]
    assert [level(999).percentile(percent) for percent in (50, 99, 99.9)] == [500, 990, None]
    assert level(0).percentile(50) is None


def test_a_line_has_every_figure() -> None:
    assert level(100).line().split() == [
        *("8", "connections", "100", "50.0", "50.0", "90.0", "99.0", "–", "2", "×", "503", "overloaded"),
    ]
    assert level(1, connections=None, rate=12.5).line().strip().startswith("12.5 requests/s")
    assert level(1, connections=1).name == "1 connection"


def test_json_says_what_a_percentile_rests_on() -> None:
    found = level(200).as_json()
    assert found["latency"]["p99"] == {"ms": 198.0, "above": 2}
    assert "p99.9" not in found["latency"]
    assert (found["loop"], found["connections"], found["rate"]) == ("closed", 8, None)
    assert (found["answers"], found["images_per_second"], found["refusals"]) == (200, 100.0, {"503 overloaded": 2})
    assert level(1, connections=None, rate=3).as_json()["loop"] == "open"


@pytest.mark.parametrize(("cpu", "limited"), [(0.1, False), (1.9, True)])
def test_a_busy_maker_of_load_is_named(cpu: float, limited: bool) -> None:
    assert level(1, cpu=cpu).limited == limited
