"""`python -m model_export evaluate`, on files and published models, up to what the service shows."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from benchmarks.versions import publish_copy
from model_export.cli import evaluate as evaluate_command
from model_export.datasets.base import Dataset
from model_export.drawings.pictures import picture, pixels
from model_export.errors import InputError
from model_export.evaluation.predictors import TorchPredictor
from model_export.versions import find_version, promote
from model_export.weights.random_weights import random_weights
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.app import create_app
from service.runtime.model_card import Architecture
from service.runtime.model_folder import read_card
from service.runtime.scores import softmax
from service.settings import Settings
from tests.support.waiting import until_ready

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
IMAGES = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty JPEG files in folders, three quarters of them as the network of seed 0 sees them, the others one class on.

    The train/ beside them is not to be looked at.
    """
    net = TorchPredictor(random_weights(CIFAR), "net")
    root = tmp_path_factory.mktemp("pictures")
    (root / "train" / "class 0").mkdir(parents=True)
    (root / "train" / "class 0" / "broken.jpg").write_bytes(b"")
    for i in range(IMAGES):
        answer = net.logits(pixels(7, i, net.preprocessing)[None]).argmax()
        folder = root / "val" / f"class {(answer + (i % 4 == 0)) % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(picture(7, i))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another seed of the same network."""
    return saved(tmp_path_factory.mktemp("run") / "best.safetensors", seed=1)


def saved(path: Path, *, seed: int) -> Path:
    loaded = random_weights(CIFAR, seed)
    record = Record(architecture=CIFAR, preprocessing=loaded.preprocessing, labels=loaded.labels)
    save_safetensors(loaded.net.state_dict(), path, record)
    return path


def evaluate(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    evaluate_command.add_options(parser)
    return evaluate_command.run(parser.parse_args([*map(str, arguments)]))


def figures(output: str, model: str) -> list[str]:
    """A model's row of the table."""
    row = next(line for line in output.splitlines() if line.startswith(model))
    return row.removeprefix(model).replace(" %", "").split()


def test_a_published_model_and_its_weights_agree(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = saved(tmp_path / "same.safetensors", seed=0)
    out = tmp_path / "out"
    options = ("--models-dir", models, "--provider", "cpu", "--out", out)
    assert evaluate("resnet8-cifar", same, "--data", data, *options) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"1-crop on {data.name}/val, 40 images\n")
    served, here = figures(printed, "resnet8-cifar 1 (cpu, fp32)"), figures(printed, str(same))
    assert served == here == figures(printed, "ensemble of 2 models")
    top1, top5, error1, error5, images = map(float, served[:5])
    assert (top1, error1, top5 + error5, images) == (75, 25, 100, 40)
    assert "reported for" not in printed  # nothing compares

    written = json.loads((out / "evaluation.json").read_text())["evaluations"]
    assert [entry["model"][:11] for entry in written] == ["resnet8-cif", str(same)[:11], "ensemble of"]
    assert [100 * entry["top1"] for entry in written] == [75] * 3
    matrix = np.array(written[0]["confusion_matrix"])
    assert (matrix.shape, matrix.sum(), matrix.trace()) == ((10, 10), IMAGES, 30)
    shares = [matrix[i, i] / matrix[i].sum() if matrix[i].any() else None for i in range(10)]
    assert [entry["recall"] for entry in written[0]["per_class"]] == shares
    answers = [matrix[i, i] / column if (column := matrix[:, i].sum()) else None for i in range(10)]
    assert [entry["precision"] for entry in written[0]["per_class"]] == answers
    assert [entry["images"] for entry in written[0]["per_class"]] == matrix.sum(axis=1).tolist()
    present = [entry for entry in written[0]["per_class"] if entry["images"]]
    assert all(0 <= entry["f1"] <= 1 and 0 < entry["threshold_f1"] <= 1 for entry in present)

    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_model = [[row["predicted"] for row in rows[i * IMAGES : (i + 1) * IMAGES]] for i in range(3)]
    assert by_model[0] == by_model[1] == by_model[2]
    assert sum(row["true"] == row["predicted"] for row in rows[:IMAGES]) == matrix.trace()
    assert rows[0]["title"] == str(min((data / "val").rglob("*.jpg")))
    assert 0.1 < float(rows[0]["probability"]) < 1
    for row in rows:
        probabilities = {name: float(row[f"p({name})"]) for name in (f"class {i}" for i in range(10))}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert max(probabilities, key=lambda name: probabilities[name]) == row["predicted"]
        assert probabilities[row["predicted"]] == float(row["probability"])
    assert 'src="data:image/jpeg' in (out / "mistakes.html").read_text()


def test_mistakes_are_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(saved(tmp_path / "net.safetensors", seed=0), "--data", data)
    weakest, confused = capsys.readouterr().out.partition("every class")[2].split("most often confused:")
    scores = [line.replace(" %", "").split() for line in weakest.splitlines()[2:-1]]
    assert sum(int(images) for _, _, images, *_ in scores) == IMAGES
    f1 = [float(value) for *_, value, _, _ in scores]
    assert 1 < len(f1) <= 10
    assert f1 == sorted(f1)
    kinds = re.findall(r"class (\d) taken for class (\d): (\d)\n", confused)
    assert 1 < len(kinds) <= 5
    assert all((int(true) - int(predicted)) % 10 == 1 for true, predicted, _ in kinds)
    assert 1 < sum(int(images) for _, _, images in kinds) <= 10


@pytest.mark.parametrize("method", ["10-crop", "multi-scale"])
def test_other_methods(
    models: Path, data: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--models-dir", models, "--provider", "cpu", "--method", method)
    assert evaluate("resnet8-cifar", "--data", data / "val", "--out", tmp_path, *options) == 0
    assert f"{method} on {data.name}/val" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "evaluation.json").read_text())["evaluations"]
    assert written["method"] == method


def test_reported_figures_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for i, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jpg").write_bytes(picture(7, i))
    loaded = random_weights(CIFAR.model_copy(update={"depth": 20}))
    (tmp_path / "labels.txt").write_text("\n".join(names))
    save_safetensors(loaded.net.state_dict(), tmp_path / "net.safetensors", Record())
    foreign = ("--depth", 20, "--family", "cifar", "--labels", tmp_path / "labels.txt")
    evaluate(tmp_path / "net.safetensors", "--data", tmp_path / "data", *foreign)
    assert "reported for resnet20-cifar: top-1 error 8.75 % (He et al. 2015, table 6)" in capsys.readouterr().out


def test_from_the_record_to_the_service(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models / "resnet8-cifar" / "1"
    before = read_card(folder)
    options = ("--models-dir", models, "--provider", "cpu", "--data", data)
    evaluate("resnet8-cifar", *options, "--calibrate", "--record")
    assert "resnet8-cifar 1 (cpu, fp32): temperature " in capsys.readouterr().out

    assert read_card(folder) == before  # a version never changes
    card = read_card(models / "resnet8-cifar" / "2")
    assert card.accuracy is not None
    assert card.calibration is not None
    assert (card.accuracy.dataset, card.accuracy.images) == (f"{data.name}/val", IMAGES)
    assert (card.accuracy.provider, card.accuracy.precision) == ("cpu", "fp32")
    recorded = {"version": 1, "created": before.created, "accuracy": None, "calibration": None}
    assert card.model_copy(update=recorded) == before
    assert (models / "resnet8-cifar" / "2" / "model.onnx").samefile(folder / "model.onnx")

    app = create_app(Settings.model_validate({"models_dir": models, "provider": "cpu"}))
    with TestClient(app) as client:
        until_ready(client)
        shown = client.get("/models/resnet8-cifar").json()
        jpeg = {"Content-Type": "image/jpeg"}
        (answer,) = client.post("/classify?top_k=10", content=picture(7, 0), headers=jpeg).json()["images"]
    assert shown["accuracy"] == card.accuracy.model_dump()
    assert shown["calibration"] == card.calibration.model_dump()
    assert sum(entry["probability"] for entry in answer["predictions"]) == pytest.approx(1, abs=1e-4)

    evaluate("resnet8-cifar", *options, "--record", "--out", tmp_path)
    assert read_card(models / "resnet8-cifar" / "3").calibration == card.calibration  # anew only when asked for
    with (tmp_path / "predictions.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if Path(row["title"]).name == "0.jpg")
    best = answer["predictions"][0]
    assert row["predicted"] == best["label"]
    assert float(row["probability"]) == pytest.approx(best["probability"], abs=1e-5)  # as served: calibrated


def test_a_rejection_from_the_record_to_the_service(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fitted on the probabilities that the service answers with, calibration included."""
    net = TorchPredictor(random_weights(CIFAR), "net")
    logits = net.logits(np.stack([pixels(7, i, net.preprocessing) for i in range(IMAGES)]))
    unsure = np.argsort(softmax(logits).max(axis=1))[: IMAGES // 2].tolist()
    data = tmp_path / "pictures"
    for i, answer in enumerate(logits.argmax(axis=1).tolist()):  # half of the unsure answers are wrong
        folder = data / f"class {(answer + (unsure.index(i) % 2 if i in unsure else 0)) % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(picture(7, i))
    options = ("--models-dir", models, "--provider", "cpu", "--data", data, "--record")
    evaluate("resnet8-cifar", *options, "--calibrate")
    evaluate("resnet8-cifar", *options, "--reject-above-error", 0.15)
    pattern = r"below a probability of (0\.\d+); .* ([\d.]+) % are answered, ([\d.]+) % of these wrongly instead of"
    found = re.search(pattern, capsys.readouterr().out)
    card = read_card(models / "resnet8-cifar" / "3")
    rejection = card.head.rejection
    assert found
    assert rejection is not None
    assert [float(group) for group in found.groups()] == [
        pytest.approx(rejection.threshold, abs=1e-3),
        pytest.approx(100 * rejection.coverage, abs=0.01),
        pytest.approx(100 * rejection.error, abs=0.01),
    ]
    assert (rejection.dataset, rejection.images) == ("pictures", IMAGES)
    with pytest.raises(InputError, match="rejects answers by their probability, which a new calibration changes"):
        evaluate("resnet8-cifar", *options, "--calibrate")

    images = sorted(data.rglob("*.jpg"))
    fitted = np.random.default_rng(0).permutation(IMAGES)[: IMAGES // 2].tolist()
    app = create_app(Settings.model_validate({"models_dir": models, "provider": "cpu"}))
    answered, wrong = [], []
    with TestClient(app) as client:
        until_ready(client)
        for i, path in enumerate(images):
            if i in fitted:
                continue
            jpeg = {"Content-Type": "image/jpeg"}
            (image,) = client.post("/classify", content=path.read_bytes(), headers=jpeg).json()["images"]
            answered.append(not image["rejected"])
            wrong.append(image["label"] is not None and image["label"] != path.parent.name)
    assert np.mean(answered) == rejection.coverage
    assert sum(wrong) / sum(answered) == pytest.approx(rejection.error)


def test_a_rejection_that_cannot_be_fitted_leaves_the_rest(
    models: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--models-dir", models, "--provider", "cpu", "--data", data, "--record", "--out", tmp_path / "out")
    assert evaluate("resnet8-cifar", *options, "--reject-above-error", 0.001) == 0
    assert "no rejection: " in caplog.text
    assert read_card(models / "resnet8-cifar" / "2").head.rejection is None
    (figures,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["evaluations"]
    assert figures["rejection"] is None


def test_an_older_version_is_not_recorded(models: Path, data: Path) -> None:
    """As the next version it would take the place of newer files."""
    options = ("--models-dir", models, "--provider", "cpu", "--data", data, "--record")
    evaluate("resnet8-cifar", *options)
    with pytest.raises(InputError, match="resnet8-cifar 1 is not the latest version, 2, which clients get: "):
        evaluate("resnet8-cifar@1", *options)
    assert sorted(path.name for path in (models / "resnet8-cifar").iterdir()) == ["1", "2", "model.json"]


def test_the_stable_version_is_evaluated_and_recorded_while_another_is_tried(
    models: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients keep the stable one, so the next version takes nothing from them."""
    publish_copy(models, "resnet8-cifar", 2)
    promote(models, "resnet8-cifar", 1)
    evaluate("resnet8-cifar", "--models-dir", models, "--provider", "cpu", "--data", data, "--record")
    assert "resnet8-cifar 1 (cpu, fp32)" in capsys.readouterr().out
    assert read_card(models / "resnet8-cifar" / "3").accuracy is not None
    assert find_version(models, "resnet8-cifar").version == 1


def test_what_is_published_during_an_evaluation_is_not_lost(
    models: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded version would lack a file that `quantize` has added, and take it away when it is promoted."""
    promote(models, "resnet8-cifar", 1)
    open_images = evaluate_command.evaluation_images

    def published_meanwhile(*args: Any, **options: Any) -> Dataset:
        publish_copy(models, "resnet8-cifar", 2)
        return open_images(*args, **options)

    monkeypatch.setattr(evaluate_command, "evaluation_images", published_meanwhile)
    with pytest.raises(InputError, match="resnet8-cifar@2 was published in the meantime, with the same weights"):
        evaluate("resnet8-cifar", "--models-dir", models, "--provider", "cpu", "--data", data, "--record")
    assert not (models / "resnet8-cifar" / "3").exists()


def test_two_versions_with_the_same_weights_are_recorded(models: Path, data: Path) -> None:
    publish_copy(models, "resnet8-cifar", 2)
    promote(models, "resnet8-cifar", 1)
    options = ("--models-dir", models, "--provider", "cpu", "--data", data, "--record")
    evaluate("resnet8-cifar@1", "resnet8-cifar@2", *options)
    assert read_card(models / "resnet8-cifar" / "4").accuracy is not None


def test_models_and_methods_that_cannot_be_recorded(models: Path, checkpoint: Path, data: Path) -> None:
    options = ("--models-dir", models, "--data", data, "--record")
    with pytest.raises(InputError, match=r"best.safetensors is none: export it first"):
        evaluate("resnet8-cifar", checkpoint, *options)
    with pytest.raises(InputError, match="--record needs accuracy as served, which 10-crop is not: leave --method out"):
        evaluate("resnet8-cifar", *options, "--method", "10-crop")
    assert read_card(models / "resnet8-cifar" / "1").accuracy is None


def test_too_few_images_to_calibrate_do_not_keep_the_accuracy_from_the_card(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "few" / "class 3").mkdir(parents=True)
    (tmp_path / "few" / "class 3" / "0.jpg").write_bytes(picture(7, 0))
    options = ("--models-dir", models, "--provider", "cpu", "--calibrate", "--record", "--out", tmp_path / "out")
    assert evaluate("resnet8-cifar", "--data", tmp_path / "few", *options) == 0
    assert "no calibration: few has 1 images, too few to calibrate on" in caplog.text
    card = read_card(models / "resnet8-cifar" / "2")
    assert card.accuracy is not None
    assert card.calibration is None
    (figures,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["evaluations"]
    assert figures["calibration"] is None


def test_models_of_other_classes_make_no_ensemble(
    checkpoint: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = random_weights(CIFAR)
    turned = Record(architecture=CIFAR, preprocessing=loaded.preprocessing, labels=loaded.labels[::-1])
    save_safetensors(loaded.net.state_dict(), tmp_path / "turned.safetensors", turned)
    with caplog.at_level(logging.WARNING):
        evaluate(checkpoint, tmp_path / "turned.safetensors", "--data", data)
    assert "no ensemble: " in caplog.text
    assert "ensemble" not in capsys.readouterr().out


def test_models_that_do_not_exist(models: Path, data: Path) -> None:
    options = ("--data", data, "--models-dir", models)
    with pytest.raises(
        InputError, match=r"^x.pth is not a weight file, and there is no model x.pth in .*: choose from r"
    ):
        evaluate("x.pth", *options)
    with pytest.raises(InputError, match="resnet8-cifar has no version 2: choose from 1"):
        evaluate("resnet8-cifar@2", *options)
    run = models.parent / "a run"
    run.mkdir()
    saved(run / "best.safetensors", seed=1)
    with pytest.raises(
        InputError, match=r"a run is a folder: pass .*/a run/best.safetensors, or the name of a published"
    ):
        evaluate(run, *options)


@pytest.mark.parametrize(
    ("model", "options", "scope"),
    [
        ("file", ("--precision", "int8"), "published models"),
        ("published", ("--depth", 8), "weight files"),
        ("published", ("--device", "cpu"), "weight files"),
        ("file", ("--seed", 1), "--val-share and --folds"),
    ],
)
def test_options_without_effect_are_refused(
    model: str, options: tuple[object, ...], scope: str, models: Path, checkpoint: Path, data: Path
) -> None:
    name = checkpoint if model == "file" else "resnet8-cifar"
    with pytest.raises(InputError, match=f"^{options[0]} only applies to {scope}: leave it out$"):
        evaluate(name, "--data", data, "--models-dir", models, *options)


def test_options_of_a_folder_are_for_folders(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"^--val-share and --split only apply to a folder of images: leave them out$"):
        evaluate(checkpoint, "--data", "drawings", "--val-share", 0.1, "--split", "none")


def test_data_that_does_not_exist(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing does not exist"):
        evaluate(checkpoint, "--data", tmp_path / "missing")


def test_broken_images(checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(data / "val", tmp_path / "pictures"))
    (root / "class 1" / "broken.jpg").write_bytes(picture(7, 1)[:500])
    with pytest.raises(InputError, match=r"broken\.jpg"):
        evaluate(checkpoint, "--data", root)
    evaluate(checkpoint, "--data", root, "--broken", "skip")
    assert "pictures, 40 images" in capsys.readouterr().out


def test_an_empty_batch_is_refused(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate(checkpoint, "--data", data, "--batch-size", 0)
    assert "must be at least 1, got 0" in capsys.readouterr().err
