"""The range test, on made-up losses and on a network."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.errors import InputError
from model_export.training.range_test import RangeTest, Rising, check_range, range_test
from model_export.training.recipe import override

from .conftest import SHORT, MakeTrainer

LRS = np.array([Rising(1e-5, 1.0, 101).lr(step) for step in range(101)])  # 20 steps for each factor of ten


def curve(noise: float = 0.0) -> RangeTest:
    """A loss that falls around 1e-2, is lowest near 1e-1, and then diverges."""
    decades = np.log10(LRS)
    losses = 2 / (1 + np.exp(6 * (decades + 2))) + np.exp(8 * (decades + 0.3))
    return RangeTest(LRS, losses + noise * np.random.default_rng(0).normal(size=101))


def test_the_learning_rate_rises_by_equal_factors() -> None:
    assert [LRS[0], LRS[20], LRS[100]] == pytest.approx([1e-5, 1e-4, 1])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_suggestion_is_where_the_loss_falls_fastest(noise: float) -> None:
    assert 0.004 < curve(noise).suggested < 0.025


def test_a_fall_after_the_minimum_and_noise_at_the_ends_do_not_count() -> None:
    losses = curve().losses.copy()
    losses[:2] += 0.5  # the first batches happened to be hard
    losses[-4:] = np.linspace(9, 3, 4)
    assert 0.004 < RangeTest(LRS, losses).suggested < 0.025


def test_a_loss_that_only_rises() -> None:
    with pytest.raises(
        InputError, match="does not fall between learning rates 1e-05 and 1: begin with a lower --lowest"
    ):
        _ = RangeTest(LRS, np.linspace(1, 2, 101)).suggested


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.1, 0.1, 100), "learning rates from 0.1 to 0.1 do not rise"),
        ((0.0, 0.1, 100), "do not rise"),
        ((0.1, float("inf"), 100), "do not rise"),
        ((0.1, float("nan"), 100), "do not rise"),
        ((0.1, 1.0, 19), "19 steps are too few to see a slope: give --test-steps 20 or more"),
    ],
)
def test_limits_that_tell_nothing(limits: tuple[float, float, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_range(*limits)


def test_a_network_learns_until_it_diverges(trainer: MakeTrainer) -> None:
    run = trainer(override(SHORT, {"steps": 60, "freeze": "stem"}))
    before = run.net.bn1.running_mean.clone()
    found = range_test(run, 1e-4, 1e4)
    assert 20 <= len(found.losses) < 60
    assert found.lrs[0] == pytest.approx(1e-4)
    assert run.state.optimizer.param_groups[0]["lr"] >= found.lrs[-1] * 0.999
    assert (run.net.bn1.running_mean == before).all()  # frozen, as in the run that is meant
    assert not list(run.folder.iterdir())


def test_a_test_that_diverges_at_once(trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"the loss diverges after \d+ steps: begin with a lower --lowest than 1e\+20"):
        range_test(trainer(override(SHORT, {"steps": 20})), 1e20, 1e30)
