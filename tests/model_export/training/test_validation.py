"""The validation that a run does, against one image at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model_export.training.recipe import override

from .conftest import SHORT, MakeTrainer


def test_val_errors_are_measured_in_evaluation_mode(trainer: MakeTrainer) -> None:
    run = trainer(override(SHORT, {"epochs": 1, "recompute_bn": 0}))
    (row,) = run.run()
    net = run.net.eval()
    wrong = loss = 0.0
    with torch.no_grad():
        for i in range(len(run.data.val)):
            image = torch.from_numpy(np.array(run.data.val.image(i))).permute(2, 0, 1)[None]
            logits = net(run.feed.normalise(image))
            y = torch.tensor([int(run.data.val.labels[i])])
            wrong += float(logits.argmax(1) != y)
            loss += float(torch.nn.functional.cross_entropy(logits, y))
    assert row.val_error == pytest.approx(wrong / len(run.data.val))
    assert row.val_loss == pytest.approx(loss / len(run.data.val), rel=1e-4)
    assert math.isfinite(row.train_loss)
