from __future__ import annotations

import pytest

from model_export.studies.cost import NetworkCost, count_cost
from service.runtime.model_card import Architecture


def test_counts_by_hand() -> None:
    """ResNet-8 of the CIFAR family with 3 classes: 3 stages of one block, 32x32, 16x16 and 8x8 outputs."""
    conv = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 * 32 + 32 * 32) * 9 + (32 * 64 + 64 * 64) * 9
    norm = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    macs = 1024 * (3 * 16 * 9 + 2 * 16 * 16 * 9) + 256 * (16 * 32 + 32 * 32) * 9 + 64 * (32 * 64 + 64 * 64) * 9
    architecture = Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
    assert count_cost(architecture) == NetworkCost(conv + norm + 64 * 3 + 3, macs + 64 * 3)


def test_unknown_depth() -> None:
    with pytest.raises(ValueError, match="no ImageNet ResNet has depth 19"):
        count_cost(Architecture(depth=19))
