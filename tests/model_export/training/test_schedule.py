"""Learning rates at every boundary."""

import math
from itertools import pairwise

import pytest

from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.training.schedule import Schedule


def test_paper_cifar_falls_at_32k_and_48k_iterations() -> None:
    schedule = Schedule(RECIPES["paper-cifar"], steps=64_000, steps_per_epoch=390)
    rates = {step: schedule.lr(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert rates == pytest.approx(
        {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}, rel=1e-9
    )


def test_paper_imagenet_falls_every_30_epochs() -> None:
    per_epoch = 5004  # 1,281,167 images in batches of 256
    schedule = Schedule(RECIPES["paper-imagenet"], steps=120 * per_epoch, steps_per_epoch=per_epoch)
    for epoch, rate in ((0, 0.1), (30, 0.01), (60, 1e-3), (90, 1e-4)):
        assert schedule.lr(epoch * per_epoch) == pytest.approx(rate)
        if epoch:
            assert schedule.lr(epoch * per_epoch - 1) == pytest.approx(10 * rate)


def test_resnet_110_warms_up_until_the_training_error_is_under_80_percent() -> None:
    recipe = override(RECIPES["paper-cifar"], {"warmup_lr": 0.01})
    schedule = Schedule(recipe, steps=64_000, steps_per_epoch=390)
    for _ in range(400):
        schedule.trained(0.85)
    assert schedule.lr(400) == 0.01
    steps = 0
    while schedule.warming_up:
        schedule.trained(0.7)
        steps += 1
    assert 10 < steps < 60  # a single good batch does not end it
    assert schedule.lr(460) == 0.1
    schedule.trained(1.0)
    assert schedule.lr(461) == 0.1  # it does not come back
    assert schedule.lr(32_000) == pytest.approx(0.01)


def test_plateau_falls_when_the_error_stalls() -> None:
    schedule = Schedule(
        override(RECIPES["paper-imagenet"], {"schedule": "plateau", "patience": 2}), steps=100, steps_per_epoch=10
    )
    rates = []
    for error in (0.5, 0.4, 0.41, 0.40, 0.39, 0.39, 0.39):
        schedule.evaluated(error)
        rates.append(schedule.lr(50))
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


def test_modern_rises_for_five_epochs_then_follows_a_cosine() -> None:
    schedule = Schedule(RECIPES["modern"], steps=600 * 100, steps_per_epoch=100)
    rates = [schedule.lr(step) for step in range(60_000)]
    assert rates[0] == pytest.approx(0.5 / 501)
    assert all(a < b for a, b in pairwise(rates[:501]))
    assert rates[500] == pytest.approx(0.5)
    assert rates[500 + 59_500 // 2] == pytest.approx(0.25)
    assert all(a >= b for a, b in pairwise(rates[500:]))
    assert rates[-1] < 1e-8


def test_linear_is_flat_up_to_its_milestone_and_ends_at_zero() -> None:
    schedule = Schedule(override(RECIPES["demo"], {"milestones": ["0.6"], "warmup": 0}), steps=10, steps_per_epoch=10)
    assert [schedule.lr(step) for step in range(10)] == pytest.approx([1e-3] * 7 + [0.75e-3, 0.5e-3, 0.25e-3], rel=1e-9)


def test_state_is_restored() -> None:
    recipe = override(RECIPES["paper-imagenet"], {"schedule": "plateau", "patience": 1, "warmup_lr": 0.01})
    first = Schedule(recipe, steps=10, steps_per_epoch=1)
    first.evaluated(0.5)
    first.evaluated(0.6)
    second = Schedule(recipe, steps=10, steps_per_epoch=1)
    assert math.isinf(second.state["best_error"])
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.trained(0.0)
        schedule.evaluated(0.55)
    assert first.state == second.state
    assert first.lr(3) == second.lr(3)


def test_a_milestone_may_round_to_the_last_step() -> None:
    schedule = Schedule(
        override(RECIPES["demo"], {"epochs": None, "steps": 1, "warmup": 0}), steps=1, steps_per_epoch=1
    )
    assert schedule.lr(0) == pytest.approx(1e-3)
