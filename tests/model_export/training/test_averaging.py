"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from model_export.training.averaging import decay_at, update_average


def test_average_moves_by_one_minus_decay() -> None:
    old, new = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    new.weight.data[:] = 3.0
    new.running_mean.fill_(10.0)  # type: ignore[union-attr]
    new.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_average(old, new, 0.75)
    assert old.weight.tolist() == [1.5, 1.5]
    assert old.running_mean.tolist() == [2.5, 2.5]  # type: ignore[union-attr]
    assert old.num_batches_tracked == 7


def test_the_decay_rises_to_its_value() -> None:
    assert [decay_at(step, 0.9) for step in (0, 8, 1000)] == pytest.approx([0.1, 0.5, 0.9])
