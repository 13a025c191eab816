"""From nothing to an answer, where nothing can be downloaded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw

from model_export.drawings import CLASSES, picture
from service.card import ModelCard
from tests.conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_demo_is_trained_published_and_good(demo_models: Path) -> None:
    log = demo_models.with_suffix(".log").read_text()
    assert "no ImageNet weights: " in log
    assert "training the demo instead" in log
    card = ModelCard.read(demo_models / "resnet18-demo" / "1")
    assert tuple(label.name for label in card.labels) == CLASSES
    assert card.accuracy is not None
    assert card.accuracy.images >= 600
    assert card.accuracy.top1 >= 0.95


def test_drawings_come_back_as_what_they_are(demo_models: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(demo_models)
    with httpx.Client(base_url=service.url) as client:
        right = total = 0
        for index in range(10 * len(CLASSES)):
            drawn = picture(4242, index)  # another seed than that of training
            response = client.post("/classify?top_k=1", content=drawn, headers={"content-type": "image/jpeg"})
            right += response.json()["images"][0]["predictions"][0]["label"] == CLASSES[index % len(CLASSES)]
            total += 1
        assert right / total >= 0.95

        # and what a person would draw to try it
        sketch = Image.new("RGB", (500, 375), "white")
        ImageDraw.Draw(sketch).polygon([(250, 60), (120, 300), (380, 300)], fill=(200, 30, 30))
        buffer = io.BytesIO()
        sketch.save(buffer, "PNG")
        best = client.post("/classify", files={"file": buffer.getvalue()}).json()["images"][0]["predictions"][0]
        assert best["label"] == "triangle"

        model = client.get("/models/resnet18-demo").json()
        assert model["accuracy"]["top1"] >= 0.95
