"""README's quick start and commands, on a machine that can download nothing: `quickstart` publishes the demo.

Also the examples of docs/client.md.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from PIL import Image, ImageDraw

from model_export.drawings.pictures import CLASSES, picture
from service.runtime.model_folder import read_card
from tests.support.processes import Service

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: str = "README.md") -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)]


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "0", text)


def run(block: Block, url: str, folder: Path) -> str:
    text = block.text.replace(ADDRESS, url)
    command = ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def shape(value: object) -> object:
    """A JSON value without what differs between machines; names, sizes, labels and problems stay."""
    if isinstance(value, dict):
        differing = ("probability", "class_id", "provider", "precision", "request_id")
        return {key: None if key in differing else shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return value


def best_only(answer: dict[str, object]) -> dict[str, object]:
    """Hides the labels after the first: which class comes second differs from training to training."""
    for image in answer["images"]:  # type: ignore[attr-defined]
        for prediction in image.get("predictions", [])[1:]:
            prediction["label"] = "(another)"
    return answer


@pytest.fixture(scope="module")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that `python -m model_export quickstart` fills when it can download nothing."""
    root = tmp_path_factory.mktemp("demo")
    offline = {"MODEL_EXPORT_WEIGHTS_URL": "http://127.0.0.1:9/", "TORCH_HOME": str(root / "empty-cache")}
    command = [sys.executable, "-m", "model_export", "quickstart", "--models-dir", str(root / "models")]
    finished = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (root / "models.log").write_text(finished.stderr)
    return root / "models"


@pytest.mark.slow
def test_the_demo_is_published_and_good(demo_models: Path) -> None:
    log = demo_models.with_suffix(".log").read_text()
    assert "no ImageNet weights: " in log
    assert "the demo instead" in log
    card = read_card(demo_models / "resnet18-demo" / "1")
    assert tuple(label.name for label in card.labels) == CLASSES
    assert card.accuracy is not None
    assert card.accuracy.images >= 600
    assert card.accuracy.top1 >= 0.98


@pytest.mark.slow
def test_drawings_come_back_as_what_they_are(demo_models: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(demo_models)
    with httpx.Client(base_url=service.url) as client:
        right = total = 0
        for index in range(10 * len(CLASSES)):
            drawn = picture(4242, index)  # no training uses this seed
            response = client.post("/classify?top_k=1", content=drawn, headers={"content-type": "image/jpeg"})
            right += response.json()["images"][0]["predictions"][0]["label"] == CLASSES[index % len(CLASSES)]
            total += 1
        assert right / total >= 0.95

        # What a person would draw to try it.
        sketch = Image.new("RGB", (500, 375), "white")
        ImageDraw.Draw(sketch).polygon([(250, 60), (120, 300), (380, 300)], fill=(200, 30, 30))
        buffer = io.BytesIO()
        sketch.save(buffer, "PNG")
        best = client.post("/classify", files={"file": buffer.getvalue()}).json()["images"][0]["predictions"][0]
        assert best["label"] == "triangle"

        model = client.get("/models/resnet18-demo").json()
        assert model["accuracy"]["top1"] >= 0.95


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Stands in for the checkout, so that the commands leave nothing in the real one."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.slow
def test_the_examples_give_what_is_shown(
    demo_models: Path, checkout: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(demo_models)
    compared = 0
    found = blocks()
    for block, shown in zip(found, [*found[1:], Block("", "")], strict=True):
        if block.language not in ("sh", "python") or block.text.startswith("make "):
            continue
        output = run(block, service.url, checkout)
        if shown.language == "json":
            assert shape(best_only(json.loads(output))) == shape(best_only(json.loads(shown.text))), block.text
            compared += 1
        elif shown.language == "text":
            assert without_numbers(output) == without_numbers(shown.text), block.text
            compared += 1
        else:
            assert json.loads(output)["default"] == "resnet18-demo"
    assert compared == 4


@pytest.mark.slow
def test_the_examples_of_the_client(demo_models: Path, checkout: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(demo_models)
    found = blocks("docs/client.md")
    python = [number for number, block in enumerate(found) if block.language == "python"]
    assert len(python) == 6
    for number in python:
        output = run(found[number], service.url, checkout)
        shown = found[number + 1]
        assert without_numbers(output) == (without_numbers(shown.text) if shown.language == "text" else "")


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    assert {"run", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
