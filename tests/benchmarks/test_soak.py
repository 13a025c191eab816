"""A soak of a minute, and what makes one fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.soak.faults import ENDING, FILL, KILL_SINGLE, KINDS, PUBLISH
from benchmarks.soak.hostile import BODIES
from benchmarks.soak.ledger import Event, Ledger
from benchmarks.soak.picture import plot
from benchmarks.soak.report import complaints, content, slope, summary
from benchmarks.soak.running import DESCRIPTORS_MORE, Outcome, Plan, soak
from benchmarks.soak.sampling import AccessLog, Sample, Tree
from tests.support.balancer import require_nginx

MODELS = ("resnet8-cifar", "resnet18")
PLAN = Plan(60, 0, Path("unused"), MODELS)
NAMES = ("single process", "two workers")


def tree(answered: int = 0, pss: float = 200, descriptors: int = 30, pid: int = 1) -> Tree:
    return Tree((pid,), pss, pss, descriptors, 10, answered)


def sample(at: float, **figures: Any) -> Sample:
    return Sample(at, right=10, busy=0, late=0, lost=0, p50=5, p99=20, trees={name: tree(**figures) for name in NAMES})


def passed(folder: Path) -> Outcome:
    """A soak in which everything was as it should be."""
    ledger = Ledger()
    ledger.sent = set(range(10))
    ledger.answered = set(range(10))
    ledger.outcomes["right"] = 10
    for kind in BODIES:
        ledger.hostile[kind][422] += 1
    ledger.faults = [Event(at, kind) for at, kind in enumerate(KINDS)]
    ledger.ended = [at + 0.5 for at in range(len(KINDS))]
    log = AccessLog(folder / "access.log")
    log.good = Counter(range(10))
    start = dict.fromkeys(NAMES, tree())
    return Outcome(PLAN, 60, ledger, [sample(at) for at in range(60)], log, start, start, [])


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    return passed(tmp_path)


def test_nothing_is_wrong_with_a_soak_that_passed(outcome: Outcome) -> None:
    assert complaints(outcome) == []


def lose(outcome: Outcome) -> Outcome:
    outcome.ledger.settle(3, "500", 0.1)
    outcome.ledger.outcomes["right"] -= 1
    return outcome


def answer_twice(outcome: Outcome) -> Outcome:
    outcome.access_log.good[3] += 1
    return outcome


def answer_from_nowhere(outcome: Outcome) -> Outcome:
    del outcome.access_log.good[3]
    return outcome


def forget(outcome: Outcome) -> Outcome:
    outcome.ledger.sent.add(10)
    return outcome


def fail_on_a_hostile_body(outcome: Outcome) -> Outcome:
    outcome.ledger.hostile["bomb"][500] += 1
    return outcome


def try_no_bomb(outcome: Outcome) -> Outcome:
    del outcome.ledger.hostile["bomb"]
    return outcome


def inject_nothing(outcome: Outcome) -> Outcome:
    return outcome._replace(impossible=[KILL_SINGLE])


def keep_descriptors(outcome: Outcome) -> Outcome:
    return outcome._replace(end=dict.fromkeys(NAMES, tree(descriptors=31 + DESCRIPTORS_MORE)))


def take_memory(outcome: Outcome) -> Outcome:
    return outcome._replace(samples=[*outcome.samples, sample(60, pss=2000)])


def grow(outcome: Outcome) -> Outcome:
    return outcome._replace(samples=[sample(at, answered=10 * at, pss=200 + at / 20) for at in range(600)])


def end_by_itself(outcome: Outcome) -> Outcome:
    outcome.ledger.complain("it ended by itself")
    return outcome


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lose, "1 requests of good clients were lost"),
        (answer_twice, "answered more than once"),
        (answer_from_nowhere, "answered by no balancer"),
        (forget, "have no outcome"),
        (fail_on_a_hostile_body, "hostile bodies (bomb) were answered {500: 1}"),
        (try_no_bomb, "no hostile body was tried: bomb"),
        (inject_nothing, "no fault happened: kill the single process"),
        (keep_descriptors, "descriptors"),
        (take_memory, "took 2000 MB"),
        (grow, "per 100,000 requests"),
        (end_by_itself, "ended by itself"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_is_wrong_is_said(outcome: Outcome, spoil: Any, complaint: str) -> None:
    found = complaints(spoil(outcome))
    assert found
    assert all(complaint in one for one in found), found


def test_growth_is_found_across_restarts_and_not_mistaken_for_warm_up() -> None:
    """Each stretch starts anew with a warm-up of 40 MB; then 50 MB per 100,000 requests, or none, with noise."""
    rng = np.random.default_rng(0)
    for growth in (0.0, 50.0):
        samples = []
        for at in range(1500):
            age = at % 500
            pss = 200 - 40 * max(0, 1 - age / 50) + growth * (100 * age) / 1e5 + rng.normal(0, 0.5)
            samples.append(sample(at, answered=100 * at, pss=pss, pid=at // 500))
        found = slope(samples, "two workers")
        assert found
        assert found.stretches == 3
        assert found.low < growth < found.high
        assert found.high - found.low < 5
    assert slope(samples[:200], "two workers") is None


def test_an_hour_is_a_small_file(outcome: Outcome, tmp_path: Path) -> None:
    hour = outcome._replace(samples=[sample(at, answered=100 * at) for at in range(3600)], seconds=3600)
    found = content(hour)
    assert len(found["series"]["seconds"]) <= 500
    plot(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_loses_nothing(models_dir: Path) -> None:
    require_nginx()
    outcome = soak(Plan(60, 0, models_dir, MODELS), lambda sample, ledger: None)
    assert complaints(outcome) == []
    print(summary(outcome))
    ledger = outcome.ledger
    assert set(outcome.impossible) <= {FILL}
    assert {event.kind for event in ledger.faults} == set(KINDS) - set(outcome.impossible)
    assert ledger.restarts.keys() == {*NAMES, "worker"}
    assert ledger.restarts.total() >= len(ENDING)
    assert len(ledger.strangers) == 6
    assert ledger.outcomes["right"] > 100
    for name, start in outcome.start.items():
        assert outcome.end[name].descriptors <= start.descriptors + DESCRIPTORS_MORE


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_balancer_that_does_not_replay_is_noticed(models_dir: Path) -> None:
    require_nginx()
    once = {"proxy_next_upstream_tries": "1"}
    outcome = soak(Plan(5, 0, models_dir, MODELS, [KILL_SINGLE, PUBLISH], once), lambda sample, ledger: None)
    assert outcome.ledger.outcomes["lost"]
    assert any("lost" in complaint for complaint in complaints(outcome))
