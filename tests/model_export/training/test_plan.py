"""Which images a step sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_export.errors import InputError
from model_export.training.distributed import Processes
from model_export.training.plan import Plan
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES

PLAN = Plan(images=96, recipe=override(RECIPES["paper-cifar"], {"batch_size": 10}), steps=21, seed=5)


def test_an_epoch_shows_every_image_at_most_once_in_a_new_order() -> None:
    assert PLAN.steps_per_epoch == 9  # and six images are left out
    epochs = [[key.image for step in range(9 * e, 9 * e + 9) for key in PLAN.keys(step)] for e in (0, 1)]
    for images in epochs:
        assert len(set(images)) == len(images) == 90
    assert epochs[0] != epochs[1]
    assert {key.epoch for key in PLAN.keys(9)} == {1}
    assert PLAN._replace(seed=6).keys(0) != PLAN.keys(0)


def test_a_set_smaller_than_a_batch_is_a_batch() -> None:
    plan = PLAN._replace(images=7)
    assert (plan.batch_size, plan.steps_per_epoch) == (7, 1)
    assert sorted(key.image for key in plan.keys(3)) == list(range(7))


def test_processes_share_a_batch() -> None:
    whole = PLAN.keys(4)
    shares = [PLAN._replace(rank=rank, world=2).keys(4) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(whole)
    assert len(shares[0]) == len(shares[1]) == 5


def test_processes_share_a_balanced_batch() -> None:
    recipe = override(RECIPES["paper-cifar"], {"batch_size": 10, "sampling": "balanced"})
    labels = np.repeat([0, 1], [80, 16])
    plans = [Plan.of(recipe, labels, 5, Processes(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    whole = Plan.of(recipe, labels, 5, Processes(0, 1, torch.device("cpu")))
    for step in (0, 4, 12):
        assert sorted(plans[0].keys(step) + plans[1].keys(step)) == sorted(whole.keys(step))
    epoch = [key for step in range(9) for key in whole.keys(step)]
    assert len(set(epoch)) == len(epoch) == 90  # an image that comes again has another key
    assert 40 <= np.bincount(labels[[key.image for key in epoch]])[0] <= 48


def test_small_images_come_first_where_the_recipe_says_so() -> None:
    plan = Plan(images=96, recipe=override(RECIPES["demo"], {"milestones": ["0.6"]}), steps=10, seed=0)
    assert [plan.size(step) for step in range(10)] == [112] * 6 + [224] * 4


def test_a_batch_that_cannot_be_divided() -> None:
    recipe = override(RECIPES["paper-cifar"], {"batch_size": 1000, "accumulate": 5})
    with pytest.raises(InputError, match="a batch of 96 images cannot be divided among 1 processes and 5 parts"):
        Plan.of(recipe, np.zeros(96, np.int64), 0, Processes(0, 1, torch.device("cpu")))


def test_the_extra_epoch_begins_after_the_run_at_full_size() -> None:
    recipe = override(RECIPES["demo"], {"batch_size": 10})
    plan = Plan(images=96, recipe=recipe, steps=21, seed=5, rank=1, world=2)
    extra, first_step = plan.extra_epoch(35)
    assert (first_step, extra.steps) == (27, 30)  # three batches of the fourth epoch
    keys = [key for step in range(first_step, extra.steps) for key in extra.keys(step)]
    assert {key.epoch for key in keys} == {3}
    assert {key.size for key in keys} == {recipe.size}
    assert len(keys) == 30  # in every process
    assert plan.extra_epoch(10_000)[0].steps == 36  # all of the epoch


def test_several_labels_cannot_be_drawn_equally_often() -> None:
    recipe = override(RECIPES["paper-cifar"], {"sampling": "balanced"})
    with pytest.raises(InputError, match="leave `--sampling balanced` out; `--class-weights balanced` makes up"):
        Plan.of(recipe, np.zeros((96, 3), np.float32), 0, Processes(0, 1, torch.device("cpu")))
