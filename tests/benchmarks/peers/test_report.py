"""Tables, ratios and the plot, from invented figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.catalogue import OURS
from benchmarks.peers.measuring import CONNECTIONS, Figures, Setting
from benchmarks.peers.model import EngineName
from benchmarks.peers.report import compared, failures, markdown, median, plot, ratio


def figures(rate: float, failed: int = 0) -> Figures:
    """One round with the same figures in every load."""
    found: Figures = {"memory.pss": 400, "memory.rss": 500}
    for connections in CONNECTIONS:
        one = {"per_second": rate, "failed": failed, "p50": 10, "p95": 20, "p99": 30, "cpu_ms": 40}
        found |= {f"{connections}.{name}": value for name, value in one.items()}
    for load in ("open50", "open70", "open85"):
        found |= {
            f"{load}.{name}": value for name, value in {"offered": rate / 2, "p50": 1, "p95": 2, "p99": 3}.items()
        }
    return found


def setting(peer: str, engine: EngineName, *rates: float) -> Setting:
    return Setting(peer, engine, "1.0", rounds=[figures(rate) for rate in rates])


@pytest.fixture
def settings() -> list[Setting]:
    return [
        setting("slow", "fp32", 10, 30, 20),
        setting("slow", "ours", 50),
        setting(OURS, "fp32", 60),
        setting(OURS, "int8", 120),
        setting("fast", "fp32", 40),
        setting("fast", "ours", 45),
        Setting("broken", "fp32", error="no such package"),
    ]


def test_our_service_stands_in_every_comparison_and_the_fastest_comes_first(settings: list[Setting]) -> None:
    assert [one.peer for one in compared(settings, "fp32")] == [OURS, "fast", "slow", "broken"]
    assert [(one.peer, one.engine) for one in compared(settings, "ours")] == [
        (OURS, "int8"),
        ("slow", "ours"),
        ("fast", "ours"),
    ]


def test_medians_are_over_rounds(settings: list[Setting]) -> None:
    assert median(settings[0], "32.per_second") == 20
    assert median(settings[0], "open10.p50") is None


def test_the_ratio_is_to_the_fastest_peer(settings: list[Setting]) -> None:
    assert ratio(settings, "fp32", 32) == (60 / 40, "fast")
    assert ratio(settings, "ours", 32) == (120 / 50, "slow")


def test_no_ratio_without_us_or_without_peers(settings: list[Setting]) -> None:
    assert ratio([one for one in settings if one.peer != OURS], "fp32", 32) is None
    assert ratio([settings[2], settings[6]], "fp32", 32) is None


def test_the_table_has_medians_range_and_ratio(settings: list[Setting]) -> None:
    text = markdown(settings, ["fp32"])
    assert "| slow | 1.0 | 20.0 | 20.0 | 20.0 (10.0–30.0) | 10.0 / 10.0 / 10.0 | 20.0 / 20.0 / 20.0 |" in text
    assert "| 400 | 500 | 0 |" in text
    assert "1.50 at 1 (fast), 1.50 at 8 (fast), 1.50 at 32 (fast)" in text
    assert "| slow | 1.0 / 2.0 / 3.0 (10.0) |" in text
    assert "int8 against int8" not in text


def test_what_users_get_comes_last_as_a_ratio_of_other_precisions(settings: list[Setting]) -> None:
    last = markdown(settings, ["fp32"]).strip().splitlines()[-1]
    assert last.startswith("As users get them (int8 here, fp32 there): ")
    assert "3.00 at 32 (fast)" in last


def test_the_error_of_a_failed_peer_is_printed(settings: list[Setting]) -> None:
    text = markdown(settings, ["fp32"])
    assert "- **broken**: no such package" in text
    assert "| broken | ? | – | – | – | – / – / – |" in text


def test_failed_requests_of_all_loads_are_counted() -> None:
    one = Setting("peer", "ours", rounds=[{"8.failed": 2, "open50.failed": 1, "8.p50": 9}, {"8.failed": 1}])
    assert failures(one) == 4


def test_without_an_open_loop_its_table_is_left_out() -> None:
    closed = {name: value for name, value in figures(10).items() if not name.startswith("open")}
    assert "%" not in markdown([Setting("peer", "fp32", rounds=[closed])], ["fp32"])


def test_a_server_that_answered_nothing_in_time_is_plotted_without_latency(tmp_path: Path) -> None:
    silent = {name: value for name, value in figures(0).items() if not name.endswith((".p50", ".p95", ".p99"))}
    plot([setting(OURS, "fp32", 60), Setting("slow", "fp32", rounds=[silent])], ["fp32"], tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_is_a_png(settings: list[Setting], tmp_path: Path) -> None:
    plot(settings, ["fp32", "ours"], tmp_path / "new" / "peers.png")
    assert (tmp_path / "new" / "peers.png").read_bytes().startswith(b"\x89PNG")
