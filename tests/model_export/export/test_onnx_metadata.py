"""What an exported file says about itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.export.onnx_metadata import onnx_metadata
from model_export.quantise.fp16 import to_fp16
from model_export.quantise.int8 import to_int8
from model_export.quantise.ranges import activation_ranges
from model_export.weights.labels import imagenet_labels
from model_export.weights.random_weights import random_weights
from service.answers import Classified
from service.runtime.model_card import Architecture, Label, Weights
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing
from tests.service.served import Served

DOCUMENT = Path(__file__).parents[3] / "docs" / "export.md"
SMALL = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def example() -> str:
    """The program in the documentation that uses a file without its card."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "custom_metadata_map" in block]
    return str(found)


@pytest.mark.parametrize("name", [pytest.param("resnet18", marks=pytest.mark.slow), "resnet8-cifar"])
def test_the_file_says_what_the_card_says(models_dir: Path, name: str) -> None:
    folder = models_dir / name / "1"
    card, found = read_card(folder), metadata(onnx.load(folder / "model.onnx"))
    assert found["name"] == card.name
    assert Architecture.model_validate_json(found["architecture"]) == card.architecture
    assert Preprocessing.model_validate_json(found["preprocessing"]) == card.preprocessing
    assert Weights.model_validate_json(found["weights"]) == card.weights
    assert json.loads(found["labels"]) == [label.name for label in card.labels]
    assert ("wnids" in found) == (name == "resnet18")
    assert f"uint8 [batch, 3, {card.preprocessing.crop}, {card.preprocessing.crop}]" in found["input"]
    assert found["software"].startswith("resnet-service ")
    assert "version" not in found  # versions share files


def test_wordnet_ids_and_names_of_any_script() -> None:
    labels = (*imagenet_labels()[:8], Label(name="größe"), Label(name="猫"))
    found = onnx_metadata(random_weights(SMALL)._replace(labels=labels), "net")
    assert json.loads(found["wnids"])[0] == "n01440764"
    assert json.loads(found["wnids"])[8:] == [None, None]
    assert "猫" in found["labels"]


def test_files_of_lower_precision_keep_it(models_dir: Path) -> None:
    path = models_dir / "resnet8-cifar" / "1" / "model.onnx"
    model = onnx.load(path)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    ranges = activation_ranges(path, images, "minmax", lambda count: None)
    assert metadata(to_fp16(model)) == metadata(model)
    assert metadata(to_int8(model, ranges)).items() >= metadata(model).items()  # the quantiser adds an entry


@pytest.mark.parametrize("name", ["resnet18", "resnet8-cifar"])
def test_plain_onnxruntime_answers_as_the_service_does(
    models_dir: Path, tmp_path: Path, photo: bytes, name: str
) -> None:
    shutil.copyfile(models_dir / name / "1" / "model.onnx", tmp_path / "model.onnx")
    (tmp_path / "photo.jpg").write_bytes(photo)
    program = (
        f"{example()}\nprint(json.dumps(logits.tolist()))\nimport sys\nprint({{'service', 'torch'}} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    label, logits, ours = finished.stdout.splitlines()
    assert ours == "set()"
    odds = np.exp(json.loads(logits) - np.max(json.loads(logits)))
    served = Served(models_dir, precision="fp32", models=name).load()
    try:
        (answer,) = served.run(served.classify(name, [photo], 1))
    finally:
        served.close()
    assert isinstance(answer, Classified)
    card = read_card(models_dir / name / "1")
    assert card.labels[int(answer.top.class_ids[0])].name == label
    assert float(answer.top.probabilities[0]) == pytest.approx(float((odds / odds.sum()).max()), rel=0.01)
