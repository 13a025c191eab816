"""Every depth of the paper, from seeded weights to an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from model_export.parity import torch_answers
from model_export.publish import publish
from model_export.random_weights import random_weights
from service.card import Architecture
from service.imaging import decode
from service.inference import top_k
from tests.conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEPTHS = (18, 34, 50, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_depth_exports_passes_parity_loads_and_answers(
    depth: int, tmp_path: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    loaded = random_weights(Architecture(depth=depth))
    card = publish(loaded, tmp_path)
    parity = card.parity
    assert (parity.top1_agreement, parity.top5_agreement) == (1, 1)

    service = start_service(tmp_path, max_batch=2)
    assert httpx.get(f"{service.url}/models").json()["depths"] == [depth]
    response = httpx.post(f"{service.url}/classify?depth={depth}", files={"file": photo}, timeout=60)
    predictions = response.json()["images"][0]["predictions"]

    pixels = decode(photo, loaded.preprocessing, max_pixels=10**9).pixels[None]
    expected = top_k(torch_answers(loaded.serving_graph(), pixels)[0], 1000)[0]
    by_class = dict(zip(expected.class_ids.tolist(), expected.probabilities.tolist(), strict=True))
    # in bf16 the order of near-equal classes may differ; the probabilities are PyTorch's to within a few per cent
    served = np.array([prediction["probability"] for prediction in predictions])
    torchs = np.array([by_class[prediction["class_id"]] for prediction in predictions])
    np.testing.assert_allclose(served, torchs, rtol=0.25)
