"""`python -m model_export export`, from its options to what is published."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.__main__ import main
from model_export.cli.export import with_views
from model_export.evaluation.crops import ten_crops
from model_export.nets.resnet import build
from model_export.weights.random_weights import random_weights
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.head import Head
from service.runtime.images.decoding import decode
from service.runtime.measured import Accuracy
from service.runtime.model_card import Architecture, Gate, ModelFile
from service.runtime.model_folder import model_versions, read_card
from service.runtime.scores import softmax
from tests.service.runtime.engines import load
from tests.service.runtime.images.pictures import encode, photograph

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
CIFAR_OPTIONS = ["--family", "cifar", "--depth", "8"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_safetensors(random_weights(CIFAR).net.state_dict(), path, Record(architecture=CIFAR))
    (tmp_path / "labels.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    return path


def test_a_file(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--weights", str(checkpoint), *CIFAR_OPTIONS, "--models-dir", str(tmp_path / "m"), "--name", "mine"]
    preprocessing = ["--resize", "36", "--interpolation", "bicubic", "--mean", "0.5", "0.5", "0.5"]
    assert main(["export", *options, *preprocessing]) == 0
    card = read_card(tmp_path / "m" / "mine" / "1")
    assert card.labels[3].name == "kind 3"
    assert card.weights.source == "net.safetensors"
    assert card.weights.sha256
    p = card.preprocessing
    assert (p.resize, p.crop, p.interpolation, p.mean) == (36, 32, "bicubic", (0.5, 0.5, 0.5))


def test_how_images_are_seen(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--weights", str(checkpoint), *CIFAR_OPTIONS, "--models-dir", str(tmp_path / "m"), "--name", "mine"]
    seen = [
        "--crop",
        "24",
        "40",
        "--fit",
        "letterbox",
        "--fill",
        "9",
        "8",
        "7",
        "--channels",
        "1",
        "--window",
        "5",
        "99",
    ]
    assert main(["export", *options, *seen]) == 0
    p = read_card(tmp_path / "m" / "mine" / "1").preprocessing
    assert (p.shape, p.fit, p.fill, p.window) == ((1, 24, 40), "letterbox", (9, 8, 7), (5, 99))
    engine = load(tmp_path / "m" / "mine" / "1")
    pixels = decode(encode(photograph(50, 60)), p, max_pixels=10_000).pixels
    assert engine.infer(pixels[None])["logits"].shape == (1, 10)


@pytest.mark.slow
def test_several_views_in_one_graph(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published model answers as its weights do in 10-crop testing, of images that are squares."""
    options = ["--weights", str(checkpoint), *CIFAR_OPTIONS, "--models-dir", str(tmp_path / "m")]
    assert main(["export", *options, "--name", "one", "--resize", "36"]) == 0
    assert main(["export", *options, "--name", "ten", "--resize", "36", "--views", "10"]) == 0
    one, ten = (read_card(tmp_path / "m" / name / "1") for name in ("one", "ten"))
    assert (ten.preprocessing.shape, ten.schema_version) == ((3, 36, 36), 1)
    image = photograph(90, 90)
    pixels = decode(encode(image), ten.preprocessing, max_pixels=10_000).pixels
    crops = ten_crops(image, one.preprocessing)
    found = softmax(load(tmp_path / "m" / "ten" / "1").infer(pixels[None])["logits"])[0]
    expected = softmax(load(tmp_path / "m" / "one" / "1", max_batch=10).infer(crops)["logits"]).mean(axis=0)
    assert np.abs(found - expected).max() < 1e-5
    assert main(["export", *options, "--name", "none", "--views", "10"]) == 1
    assert "--views needs squares that are smaller than the resized image" in capsys.readouterr().err
    multi_label = [*options, "--name", "none", "--resize", "36", "--views", "10", "--head", "sigmoid"]
    assert main(["export", *multi_label]) == 1
    assert capsys.readouterr().err.endswith("the head is sigmoid: leave it out\n")


def test_accuracy_of_one_crop_is_not_that_of_several() -> None:
    accuracy = Accuracy(dataset="pictures", images=100, top1=0.9, top5=1.0)
    loaded = random_weights(Architecture(depth=18))._replace(accuracy=accuracy)
    assert with_views(loaded, 5).accuracy is None


@pytest.mark.parametrize(("options", "stays"), [([], True), (["--resize", "32"], True), (["--resize", "36"], False)])
def test_accuracy_is_that_of_the_preprocessing(
    tmp_path: Path, quick_export: None, options: list[str], stays: bool
) -> None:
    path = tmp_path / "net.safetensors"
    net = random_weights(CIFAR)
    accuracy = Accuracy(dataset="pictures", images=100, top1=0.9, top5=1.0)
    record = Record(architecture=CIFAR, labels=net.labels, preprocessing=net.preprocessing, accuracy=accuracy)
    save_safetensors(net.net.state_dict(), path, record)
    assert main(["export", "--weights", str(path), "--models-dir", str(tmp_path / "m"), *options]) == 0
    assert read_card(tmp_path / "m" / "resnet8-cifar" / "1").accuracy == (accuracy if stays else None)


def test_sigterm_leaves_nothing_behind(
    tmp_path: Path, quick_export: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model_export.export.publish.check_collapse", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    random = ["export", "--weights", "random", "--depth", "8", "--family", "cifar", "--models-dir", str(tmp_path / "m")]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(random) == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.endswith(
        "interrupted: no unfinished model is published; downloads and trainings can be resumed\n"
    )
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.usefixtures("quick_export")
def test_the_license_of_the_weights(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--models-dir", str(tmp_path / "m")]
    options = ["--weights", str(checkpoint), *CIFAR_OPTIONS, *models, "--name", "mine"]
    assert main(["export", *options, "--license", " CC-BY-NC-4.0 "]) == 0
    assert read_card(tmp_path / "m" / "mine" / "1").weights.license == "CC-BY-NC-4.0"
    assert main(["inspect", "mine", *models]) == 0
    assert '"license": "CC-BY-NC-4.0"' in capsys.readouterr().out
    for text in ("", "two\nlines"):
        with pytest.raises(SystemExit):
            main(["export", *options, "--license", text])
        assert "not a license" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "random"], "--weights random needs the network's depth: give --depth"),
        (["--weights", "random", "--depth", "19"], "no ImageNet ResNet has depth 19"),
        (["--weights", "imagenet"], "--weights imagenet needs the network's depth: give --depth"),
        (["--weights", "imagenet", "--depth", "50", "--variant", "v1"], "are for v1.5 with shortcut option B"),
        (["--weights", "missing.pth", "--depth", "18"], "missing.pth does not exist"),
        (["--weights", "random", "--depth", "18", "--name", "../x"], "'../x'"),
        (["--weights", "random", "--depth", "18", "--train"], "--train only applies to `--weights demo`"),
        (["--weights", "demo", "--crop", "128"], "--crop only applies to a FILE of weights: leave it out"),
        (["--weights", "demo", "--depth", "50"], "--depth only applies to other weights (the demo is a ResNet-18)"),
        (["--weights", "demo", "--seed", "1"], "--seed only applies to `--weights random` and `--weights demo --tr"),
        (
            ["--weights", "random", "--depth", "18", "--labels", "x.txt", "--std", "1", "1", "1"],
            "--labels and --std only apply to a FILE of weights: leave them out",
        ),
        (
            ["--weights", "imagenet", "--depth", "18", "--resize", "300"],
            "--resize only applies to a FILE of weights",
        ),
        (["--weights", "demo", "--head", "sigmoid"], "--head only applies to a FILE of weights: leave it out"),
        (["--weights", "net.pth", "--seed", "0"], "--seed only applies to `--weights random`"),
    ],
)
def test_errors_are_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *options, "--models-dir", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert list(model_versions(tmp_path / "models")) == []


@pytest.mark.slow
def test_the_head_of_weights_from_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--weights", str(checkpoint), "--name", "net", "--models-dir", str(tmp_path / "m")]
    assert main(["export", *options, "--head", "sigmoid"]) == 0
    assert read_card(tmp_path / "m" / "net" / "1").head == Head(kind="sigmoid")
    assert main(["export", *options]) == 0
    assert read_card(tmp_path / "m" / "net" / "2").head == Head()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "288"], "crop 288 is larger than the resized shorter side 36: set --resize as well"),
        (["--mean", "123.675", "116.28", "103.53"], "are for pixels from 0 to 255: divide them by 255"),
        (["--std", "58.395", "57.12", "57.375"], "are for pixels from 0 to 255: divide them by 255"),
    ],
)
def test_impossible_preprocessing_is_one_sentence(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--models-dir", str(tmp_path / "m"), "--resize", "36"]
    assert main(["export", "--weights", str(checkpoint), *options, *at]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(model_versions(tmp_path / "m")) == []


def test_a_variant_that_is_not_recorded_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    torch.save(build(Architecture(depth=50)).state_dict(), path)
    assert main(["export", "--weights", str(path), "--depth", "50", "--models-dir", str(tmp_path / "m")]) == 1
    assert "--variant v1.5" in capsys.readouterr().err


def test_the_result_says_in_which_precision_it_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ["--weights", "random", *CIFAR_OPTIONS, "--models-dir", str(tmp_path), "--name", "net"]
    assert main(["export", *options]) == 0
    assert "net: served in fp32. int8 (CPUs), fp16 (NVIDIA GPUs) and bf16 (CPUs that have it) are faster" in caplog.text
    assert "python -m model_export quantize net@1 --data FOLDER --precision int8|fp16|bf16" in caplog.text
    card = read_card(tmp_path / "net" / "1")
    gate = Gate(dataset="pictures", images=100, top1_agreement=1, limit=0.01)
    files = {"fp32": card.files["fp32"].model_copy(update={"bf16": gate})}
    files["int8"] = ModelFile(file="model.int8.onnx", sha256="", bytes=1, gate=gate)
    (tmp_path / "net" / "1" / "card.json").write_text(card.model_copy(update={"files": files}).to_json())
    assert main(["export", *options]) == 0
    assert "net: served in fp32 (version 1 also in bf16, int8). " in caplog.text
