"""The colours of a training set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_export.datasets.in_memory import InMemory
from model_export.training.colour_statistics import measure_colours
from service.runtime.preprocessing import Preprocessing


def test_principal_components_are_those_of_the_colours() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    colours = 128 + (rng.normal(size=(60, 8 * 8, 3)) * [40, 10, 2]) @ axes.T
    images = torch.from_numpy(colours.clip(0, 255).reshape(60, 8, 8, 3).round().astype(np.uint8))
    found = measure_colours(InMemory("noise", ("a", "b"), images, np.arange(60) % 2), Preprocessing(resize=8, crop=8))
    lengths = np.linalg.norm(found.palette.components, axis=0)
    assert sorted(lengths) == pytest.approx([2, 10, 40], rel=0.06)
    longest = found.palette.components[:, lengths.argmax()] / lengths.max()
    assert abs(longest @ axes[:, 0]) == pytest.approx(1, abs=0.01)
