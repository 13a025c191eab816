"""The model card: what it accepts, and what it refuses."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.runtime.head import Head
from service.runtime.measured import Calibration, Rejection
from service.runtime.model_card import (
    SCHEMA_VERSION,
    Architecture,
    Gate,
    ModelCard,
    ModelFile,
    Quantisation,
)
from service.runtime.model_folder import CardError, read_card
from service.runtime.preprocessing import Preprocessing

CALIBRATION = {"temperature": 1.5, "ece_before": 0.06, "ece_after": 0.01, "dataset": "pictures", "images": 1000}
CARDS = sorted((Path(__file__).parent / "cards").glob("*.json"))


def test_a_card_survives_writing_and_reading(published: Path) -> None:
    card = read_card(published)
    (published / "card.json").write_text(card.to_json())
    assert read_card(published) == card
    assert (card.name, card.version, card.architecture.depth) == ("resnet8-cifar", 1, 8)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_card_that_was_ever_published_is_read(path: Path) -> None:
    """Each was written by the code that first had its fields."""
    written = json.loads(path.read_text())
    card = ModelCard.model_validate_json(path.read_bytes())
    assert (card.name, card.version, card.parameters) == ("resnet8-cifar", 1, 78042)
    now = json.loads(card.to_json())

    def check_kept(before: Any, after: Any) -> None:
        if isinstance(before, dict):
            for key, value in before.items():
                check_kept(value, after[key])
        else:
            assert after == before

    check_kept(written, now)


def test_fields_of_later_releases_are_ignored_and_kept(published: Path) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    before = read_card(published)

    def parts(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [part for element in value for part in parts(element)]
        if not isinstance(value, dict):
            return []
        return [value] + [part for element in value.values() for part in parts(element)]

    objects = [part for part in parts(card) if part not in (card["files"], card["tools"], card["metadata"])]
    assert len(objects) > 15  # the card, its parts, its labels
    for part in objects:
        part["added_later"] = {"by": "a later release"}
    path.write_text(json.dumps(card))
    after = read_card(published)
    assert json.loads(after.to_json()) == card
    assert (after.preprocessing.crop, after.labels[0].name) == (before.preprocessing.crop, before.labels[0].name)


def test_a_card_that_would_be_served_wrongly_is_refused(published: Path) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(CardError, match=r"schema_version: .*a later release published the model; upgrade to it"):
        read_card(published)


def test_preprocessing_of_schema_1_is_written_as_that(published: Path) -> None:
    card = read_card(published)
    for fields, version in (({}, 1), ({"fit": "squash"}, 2), ({"window": (0, 9)}, 2), ({"fit": "crop"}, 1)):
        preprocessing = card.preprocessing.model_copy(update=fields)
        text = card.model_copy(update={"preprocessing": preprocessing}).to_json()
        assert json.loads(text)["schema_version"] == version


def test_only_cards_that_older_code_would_serve_wrongly_have_a_later_schema_version(published: Path) -> None:
    card = read_card(published)
    rejection = Rejection(threshold=0.7, coverage=0.9, error=0.01, error_without=0.05, dataset="pictures", images=100)
    heads = {1: [Head()], 2: [Head(kind="sigmoid"), Head(rejection=rejection)]}
    for version, of_version in heads.items():
        for head in of_version:
            (published / "card.json").write_text(card.model_copy(update={"head": head}).to_json())
            assert json.loads((published / "card.json").read_text())["schema_version"] == version
            assert read_card(published).head == head
    (published / "card.json").write_text(read_card(published).model_copy(update={"head": Head()}).to_json())
    assert json.loads((published / "card.json").read_text())["schema_version"] == 1


def test_one_class_needs_a_sigmoid(published: Path) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    card["architecture"]["num_classes"], card["labels"] = 1, card["labels"][:1]
    path.write_text(json.dumps(card))
    with pytest.raises(CardError, match="softmax over one class always answers 1"):
        read_card(published)
    path.write_text(json.dumps(card | {"head": {"kind": "sigmoid"}}))
    assert read_card(published).head.thresholds_of(1) == (0.5,)


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "a/b.onnx", "..", ".", "", "a\\b", "a\n"])
def test_a_file_is_a_plain_name(published: Path, file: str) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    card["files"]["fp32"]["file"] = file
    path.write_text(json.dumps(card))
    with pytest.raises(CardError, match=r"files\.fp32\.file: String should match pattern"):
        read_card(published)


def test_the_time_of_creation_is_in_pythons_utc(published: Path) -> None:
    assert read_card(published).created.tzinfo is UTC


def test_a_calibration_is_optional(published: Path) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    del card["calibration"]
    path.write_text(json.dumps(card))
    assert read_card(published).calibration is None
    found = Calibration(temperature=1.5, ece_before=0.06, ece_after=0.01, dataset="pictures", images=1000)
    path.write_text(read_card(published).model_copy(update={"calibration": found}).to_json())
    assert read_card(published).calibration == found


def test_a_file_of_lower_precision_has_a_gate_and_a_quantisation(published: Path) -> None:
    card = read_card(published)
    assert card.parity == card.files["fp32"].parity
    assert card.files["fp32"].gate is card.files["fp32"].quantisation is None
    gate = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=-0.01, limit=0.01)
    quantisation = Quantisation(method="entropy", dataset="pictures", images=64, float_layers=("fc",))
    file = ModelFile(file="model.int8.onnx", sha256="0", bytes=1, gate=gate, quantisation=quantisation)
    (published / "card.json").write_text(card.model_copy(update={"files": card.files | {"int8": file}}).to_json())
    assert read_card(published).files["int8"] == file


def test_cards_without_gate_and_quantisation_are_valid(published: Path) -> None:
    path = published / "card.json"
    card = json.loads(path.read_text())
    for name in ("gate", "quantisation"):
        card["files"]["fp32"].pop(name, None)
    path.write_text(json.dumps(card))
    assert list(read_card(published).files) == ["fp32"]


@pytest.mark.parametrize("change", [{"top1_agreement": 1.1}, {"accuracy_lost": -1.5}, {"limit": -0.1}, {"images": 0}])
def test_an_invalid_gate(change: dict[str, object]) -> None:
    good = {"dataset": "pictures", "images": 1, "top1_agreement": 1, "limit": 0}
    assert Gate.model_validate(good).accuracy_lost is None
    with pytest.raises(ValidationError, match=next(iter(change))):
        Gate.model_validate(good | change)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_temperature(temperature: float) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Calibration(temperature=temperature, ece_before=0, ece_after=0, dataset="pictures", images=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../evil"}, "name"),
        ({"labels": [{"name": "only one"}]}, "1 labels for 10 classes"),
        ({"head": {"kind": "sigmoid", "thresholds": [0.5]}}, "1 thresholds for 10 classes"),
        ({"files": {}}, "the fp32 file is missing"),
        ({"schema_version": SCHEMA_VERSION + 1}, "schema_version"),
        ({"files": {"fp32": {"file": "model.onnx", "sha256": "0", "bytes": 1}}}, "the fp32 file has no parity"),
        ({"files": {"fp8": {"file": "model.fp8.onnx", "sha256": "0", "bytes": 1}}}, "files.fp8"),
    ],
)
def test_an_invalid_card_is_refused_with_its_fault(published: Path, change: dict[str, object], message: str) -> None:
    path = published / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CardError, match=message):
        read_card(published)


def test_names_of_architectures() -> None:
    assert Architecture(depth=50).name == "resnet50"
    assert Architecture(depth=34, shortcut=None).name == "plain34"
    assert Architecture(depth=20, family="cifar", shortcut="A").name == "resnet20-cifar"
    assert [Architecture(depth=depth).has_bottlenecks for depth in (18, 34, 50)] == [False, False, True]
    assert not Architecture(depth=110, family="cifar").has_bottlenecks


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValidationError, match="crop 224 is larger"):
        Preprocessing(resize=200)


@pytest.mark.parametrize(
    ("mean", "std", "fault"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "are for pixels from 0 to 255: divide them by 255"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), "divide them by 255"),
        ((0.5, 0.5, 0.5), (0.5, -0.5, 0.5), "are impossible for pixels from 0 to 1"),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), "are impossible for pixels from 0 to 1"),
        ((-0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "are impossible for pixels from 0 to 1"),
    ],
)
def test_statistics_of_another_scale_are_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        Preprocessing(mean=mean, std=std)


def test_unusual_statistics_are_allowed() -> None:
    Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
