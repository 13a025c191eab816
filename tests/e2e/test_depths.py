"""Every depth of the paper, from seeded weights to an answer of the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_export.export.parity_gate import torch_answers
from model_export.export.publish import publish
from model_export.weights.random_weights import random_weights
from service.runtime.images.decoding import decode
from service.runtime.model_card import Architecture
from service.runtime.model_folder import read_card
from service.runtime.scores import top_k
from tests.support.processes import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEPTHS = (18, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (34, 50, 101, 152)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_depth_exports_passes_parity_loads_and_answers(
    depth: int, models_dir: Path, tmp_path: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    loaded = random_weights(Architecture(depth=depth))
    name = loaded.net.architecture.name
    root = models_dir if (models_dir / name).exists() else tmp_path  # depth 18 is published there, with these weights
    card = read_card(root / name / "1") if root == models_dir else publish(loaded, root)
    assert (card.parity.top1_agreement, card.parity.top5_agreement) == (1, 1)

    service = start_service(root, models=name, max_batch=2)
    assert service.get("/models").json()["depths"] == [depth]
    response = service.post(f"/classify?depth={depth}", files={"file": photo}, timeout=60)
    predictions = response.json()["images"][0]["predictions"]

    pixels = decode(photo, loaded.preprocessing, max_pixels=10**9).pixels[None]
    expected = top_k(torch_answers(loaded.serving_graph(), pixels)[0], 1000)[0]
    by_class = dict(zip(expected.class_ids.tolist(), expected.probabilities.tolist(), strict=True))
    # bf16 may swap near-equal classes, but the probabilities are within a few per cent of PyTorch's.
    by_service = np.array([prediction["probability"] for prediction in predictions])
    by_torch = np.array([by_class[prediction["class_id"]] for prediction in predictions])
    np.testing.assert_allclose(by_service, by_torch, rtol=0.25)
