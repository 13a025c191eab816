"""Room for engines, and the wait for it, as far as they need no cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from service.bulk.cluster import capacity  # noqa: E402
from service.bulk.cluster.capacity import Share, room  # noqa: E402
from service.bulk.stream import Ended  # noqa: E402


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([(2, 0), (2, 0)], 3, 0, 0),  # enough in all, but on no machine
        ([(2, 0), (2, 0)], 2, 0, 1),  # the other machine decodes
        ([(2, 0), (3, 0)], 2, 0, 2),
        ([(1, 0)], 1, 0, 0),  # nothing is left to decode
        ([], 1, 0, 0),
        ([(8, 1), (8, 0)], 2, 1, 1),
        ([(8, 0), (1, 2)], 2, 1, 0),  # GPUs and CPUs on different machines
        ([(8, 2)], 1, 0.6, 2),  # a share is one of a single GPU
        ([(40, 2)], 1, 0.1, 20),
        ([(9, 3)], 1, 2, 1),
    ],
)
def test_engines_find_room_on_single_machines(
    nodes: list[tuple[int, int]], cpus: int, gpus: float, expected: int
) -> None:
    assert room([{"CPU": has, "GPU": beside} for has, beside in nodes], Share(cpus, gpus)) == expected


class Full:
    """A reservation on a cluster that has no room at first, and a clock that goes on as it is waited for.

    Attributes:
        asked: what is reserved; None once that is given back.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self.now = 0.0
        self.asked: Any = None

    def reserve(self, asked: Any) -> Full:
        self.asked = asked
        return self

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self._left -= seconds
        return self._left < 0

    def free(self, _: Full) -> None:
        self.asked = None


@pytest.fixture
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Full:
    cluster = Full(request.param)
    monkeypatch.setattr(capacity, "placement_group", cluster.reserve)
    monkeypatch.setattr(capacity, "remove_placement_group", cluster.free)
    monkeypatch.setattr(capacity, "monotonic", lambda: cluster.now)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 1.5, "CPU": 2.0})
    limit = SimpleNamespace(execution_no_progress_timeout_s=1800)
    monkeypatch.setattr(ray.data.DataContext, "get_current", lambda: limit)
    return cluster


@pytest.mark.parametrize(("full", "lines"), [(3, 0), (10, 1), (200, 2)], indirect=["full"])
def test_what_is_waited_for_is_said_soon_and_again(full: Full, lines: int) -> None:
    said: list[str] = []
    Share(2, 0.5).wait_for_room(said.append, lambda: False)
    assert said == lines * [
        "waiting for room on the cluster: an engine takes 2 CPUs and 0.5 GPUs of one machine, decoding 1 CPU; free are "
        "2 of 8 CPUs and 1.5 of 2 GPUs"
    ]
    assert full.asked is None


@pytest.mark.parametrize("full", [10**6], indirect=True)
def test_the_wait_ends_as_a_run_does_in_which_nothing_moves(full: Full) -> None:
    told = "had no room for 1800 s: an engine takes 3 CPUs of one machine.*; start again when others end, or set RAY"
    with pytest.raises(Ended, match=told):
        Share(3, 0).wait_for_room(lambda text: None, lambda: False)
    assert full.now == 1800
    assert full.asked is None


@pytest.mark.parametrize("full", [10**6], indirect=True)
def test_a_run_that_is_stopped_does_not_wait(full: Full) -> None:
    Share(1, 0).wait_for_room(lambda text: None, lambda: full.now > 2)
    assert full.now == 3
    assert full.asked is None
