"""Batches on their way to the device."""

from __future__ import annotations

import torch

from model_export.training.loader import Batch

from .conftest import MakeTrainer


def test_colours_are_shifted_before_normalisation(trainer: MakeTrainer) -> None:
    feed = trainer().feed
    images, labels = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8), torch.tensor([0, 1])
    plain, _ = feed.to_device(Batch(images, labels))
    shift = torch.tensor([[1.5, -2.0, 0.0], [0.0, 0.0, 0.25]])
    shifted, _ = feed.to_device(Batch(images, labels, shift))
    # `mean-image` normalisation subtracts and does not divide: shifts stay in units of 0 to 255.
    torch.testing.assert_close(shifted - plain, shift[:, :, None, None].expand(2, 3, 32, 32), atol=1e-4, rtol=0)
    assert shifted.is_contiguous(memory_format=torch.channels_last)
