"""The contract between the two programs, on a really published folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from service.card import (
    SELF_TEST_FILE,
    Architecture,
    Calibration,
    CardError,
    Gate,
    ModelCard,
    ModelFile,
    Preprocessing,
    Quantisation,
    SelfTest,
    nothing_in,
    published,
    verify_digests,
)


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1"))


def test_a_card_survives_writing_and_reading(folder: Path) -> None:
    card = ModelCard.read(folder)
    (folder / "card.json").write_text(card.to_json())
    assert ModelCard.read(folder) == card
    assert (card.name, card.version, card.architecture.depth) == ("resnet8-cifar", 1, 8)


def test_when_it_was_made_is_in_pythons_own_utc(folder: Path) -> None:
    assert ModelCard.read(folder).created.tzinfo is UTC


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("nowhere", "there is no folder {at}: fill it with `python -m model_export quickstart --models-dir {at}`"),
        (".", "nothing is published in {at}: fill it with `python -m model_export quickstart --models-dir {at}`"),
        ("file", "{at} is a file, and no model folder: give the folder that `python -m model_export` fills"),
        ("m/resnet8-cifar", "{at} is of the model resnet8-cifar, and no model folder: give {root}/m"),
        ("m/resnet8-cifar/1", "{at} is of the model resnet8-cifar, and no model folder: give {root}/m"),
    ],
)
def test_why_nothing_is_published_is_told(folder: Path, tmp_path: Path, at: str, said: str) -> None:
    folder.parent.rename((tmp_path / "m").mkdir() or tmp_path / "m" / "resnet8-cifar")
    (tmp_path / "file").touch()
    assert nothing_in(tmp_path / at) == said.format(at=tmp_path / at, root=tmp_path)


def test_a_calibration_is_part_of_a_card_and_older_cards_are_valid_without(folder: Path) -> None:
    path = folder / "card.json"
    card = json.loads(path.read_text())
    del card["calibration"]
    path.write_text(json.dumps(card))
    assert ModelCard.read(folder).calibration is None
    found = Calibration(temperature=1.5, ece_before=0.06, ece_after=0.01, dataset="pictures", images=1000)
    path.write_text(ModelCard.read(folder).model_copy(update={"calibration": found}).to_json())
    assert ModelCard.read(folder).calibration == found


def test_a_file_of_lower_precision_tells_how_it_was_made_and_what_it_loses(folder: Path) -> None:
    card = ModelCard.read(folder)
    assert card.parity == card.files["fp32"].parity
    assert card.files["fp32"].gate is card.files["fp32"].quantisation is None
    gate = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=-0.01, limit=0.01)
    quantisation = Quantisation(method="entropy", dataset="pictures", images=64, float_layers=("fc",))
    file = ModelFile(file="model.int8.onnx", sha256="0", bytes=1, gate=gate, quantisation=quantisation)
    (folder / "card.json").write_text(card.model_copy(update={"files": card.files | {"int8": file}}).to_json())
    assert ModelCard.read(folder).files["int8"] == file


def test_cards_from_before_there_were_other_precisions_are_valid(folder: Path) -> None:
    path = folder / "card.json"
    card = json.loads(path.read_text())
    for name in ("gate", "quantisation"):
        card["files"]["fp32"].pop(name, None)
    path.write_text(json.dumps(card))
    assert list(ModelCard.read(folder).files) == ["fp32"]


@pytest.mark.parametrize(
    "change", [{"top1_agreement": 1.1}, {"accuracy_lost": -1.5}, {"limit": -0.1}, {"images": 0}, {"surprise": 1}]
)
def test_a_gate_that_is_none(change: dict[str, object]) -> None:
    good = {"dataset": "pictures", "images": 1, "top1_agreement": 1, "limit": 0}
    assert Gate.model_validate(good).accuracy_lost is None
    with pytest.raises(ValidationError, match=next(iter(change))):
        Gate.model_validate(good | change)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Calibration(temperature=temperature, ece_before=0, ece_after=0, dataset="pictures", images=1)


def test_a_missing_card(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.json does not exist: publish"):
        ModelCard.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../evil"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"labels": [{"name": "only one"}]}, "1 labels for 10 classes"),
        ({"files": {}}, "the fp32 file is missing"),
        ({"schema_version": 2}, "schema_version"),
        ({"files": {"fp32": {"file": "model.onnx", "sha256": "0", "bytes": 1}}}, "the fp32 file has no parity"),
        ({"files": {"fp8": {"file": "model.fp8.onnx", "sha256": "0", "bytes": 1}}}, "files.fp8"),
    ],
)
def test_a_wrong_card_is_refused_with_its_fault(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CardError, match=message):
        ModelCard.read(folder)


def test_digests(folder: Path) -> None:
    card = ModelCard.read(folder)
    verify_digests(folder, card)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xfe")
    with pytest.raises(CardError, match=r"model\.onnx has SHA-256 .* its card says"):
        verify_digests(folder, card)
    (folder / "model.onnx").unlink()
    with pytest.raises(CardError, match=r"model\.onnx cannot be read \(No such file"):
        verify_digests(folder, card)


def test_a_folder_keeps_its_name(folder: Path) -> None:
    for other in (folder.with_name("2"), folder.parent.with_name("renamed") / "1"):
        shutil.copytree(folder, other)
        with pytest.raises(CardError, match="is the card of resnet8-cifar 1"):
            ModelCard.read(other)


def test_what_is_no_card_at_all(folder: Path) -> None:
    (folder / "card.json").unlink()
    (folder / "card.json").mkdir()
    with pytest.raises(CardError, match="cannot be read"):
        ModelCard.read(folder)


@pytest.mark.parametrize("rounding", [None, 1e-7])  # older files do not tell theirs
def test_the_self_test_is_stored_exactly(folder: Path, rounding: float | None) -> None:
    stored = SelfTest(np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2), np.array([[0.5, 1.5]], np.float32), rounding)
    stored.write(folder)
    found = SelfTest.read(folder)
    assert np.array_equal(found.images, stored.images)
    assert np.array_equal(found.logits, stored.logits)
    assert found.rounding == rounding
    assert (found.images.dtype, found.logits.dtype) == (np.uint8, np.float32)
    for damaged in (b"", b"not a zip", (folder / SELF_TEST_FILE).read_bytes()[:50]):
        (folder / SELF_TEST_FILE).write_bytes(damaged)
        with pytest.raises(CardError, match="cannot be read"):
            SelfTest.read(folder)


def test_folders_that_cannot_be_read_are_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1", "b/1", "c/1"):
        (tmp_path / name).mkdir(parents=True)
    closed = {tmp_path / "b"}
    real = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self in closed:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [entry.name for entry in published(tmp_path)] == ["a", "c"]
    assert f"{tmp_path / 'b'} cannot be read (Permission denied) and is passed over" in caplog.text
    closed.add(tmp_path)
    with pytest.raises(CardError, match=r"cannot be read \(Permission denied\): let this user read it"):
        list(published(tmp_path))


def test_published_finds_versions_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "b/1", "a/1", "b/.staging-x", "b/03", "b/latest", ".hidden/1", "lost+found/1", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "b" / "5").touch()
    assert [(entry.name, entry.version) for entry in published(tmp_path)] == [("a", 1), ("b", 1), ("b", 2), ("b", 10)]
    assert list(published(tmp_path / "missing")) == []


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
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "are of pixels from 0 to 255: divide them by 255"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), "divide them by 255"),
        ((0.5, 0.5, 0.5), (0.5, -0.5, 0.5), "are none that pixels from 0 to 1 have"),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), "are none that pixels from 0 to 1 have"),
        ((-0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "are none that pixels from 0 to 1 have"),
    ],
)
def test_statistics_of_another_scale_are_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        Preprocessing(mean=mean, std=std)


def test_statistics_that_some_networks_have() -> None:
    Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
