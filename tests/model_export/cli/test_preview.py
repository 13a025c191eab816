"""`python -m model_export preview`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from starlette.testclient import TestClient

from model_export.__main__ import main
from model_export.cli.preview import CACHE, MAX_PIXELS
from service import request_ids
from service.app import create_app
from service.failed_images import FailedImages
from service.runtime.model_card import Architecture, Calibration
from service.runtime.model_folder import MODEL_FILES, read_card
from service.settings import Settings
from tests.service.runtime.engines import with_file
from tests.service.runtime.images.pictures import jpeg_with_orientation, photograph
from tests.support.folders import copied
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until_ready

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
Preview = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, where crops are written."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def picture(tmp_path: Path, photo: bytes) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    return path


@pytest.fixture
def preview(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> Preview:
    """Runs the command on the processor; returns what it prints as JSON."""

    def run(file: Path, *options: str, models: Path = tiny_dir) -> dict[str, Any]:
        command = ["preview", str(file), "--provider", "cpu", "--models-dir", str(models), "--json", *options]
        assert main(command) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


def calibrated(folder: Path) -> None:
    calibration = Calibration(temperature=2.5, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    card = read_card(folder).model_copy(update={"calibration": calibration})
    (folder / "card.json").write_text(card.to_json())


def add_int8(folder: Path) -> None:
    """An int8 file whose last layer differs a little from fp32's."""
    model = onnx.load(folder / MODEL_FILES["fp32"])
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "bias")
    values = numpy_helper.to_array(bias).copy()
    values[0] += 0.01
    bias.CopyFrom(numpy_helper.from_array(values, "bias"))
    onnx.save(model, folder / MODEL_FILES["int8"])
    (folder / "card.json").write_text(with_file(folder, "int8", None).to_json())


def test_it_answers_as_the_service_to_the_digit_and_sees_the_same(
    tiny_dir: Path, tmp_path: Path, photo: bytes, preview: Preview
) -> None:
    models = copied(tiny_dir, tmp_path / "models")
    calibrated(models / "resnet8-cifar" / "1")
    files = {"photo.jpg": photo, "turned.jpg": jpeg_with_orientation(photograph(700, 900), 6)}
    settings = Settings(models_dir=models, provider="cpu", max_batch=1)
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        for name, data in files.items():
            path = tmp_path / name
            path.write_bytes(data)
            for model, classes in (("resnet18", 1000), ("resnet8-cifar", 10)):
                served = client.post(f"/classify?model={model}&top_k={classes}", content=data).json()
                seen = client.post(f"/preview?model={model}", content=data)
                found = preview(path, "--model", model, models=models)
                (answer,) = found["answers"]  # in fp32 on the processor, which is what it would be compared with
                rounded = [one | {"probability": round(one["probability"], 6)} for one in answer["predictions"]]
                assert rounded == served["images"][0]["predictions"]
                assert (answer["provider"], answer["precision"]) == (served["provider"], served["precision"])
                assert (found["model"], found["version"]) == (served["model"], served["version"])
                decoded, image = found["decoded"], served["images"][0]
                assert (decoded["upright_width"], decoded["upright_height"]) == (image["width"], image["height"])
                assert Path(found["crop"]).read_bytes() == seen.content
                assert f"divisor={decoded['divisor']}," in seen.headers["x-decoded"]
                assert found["temperature"] == (2.5 if model == "resnet8-cifar" else 1)


def test_what_it_prints_for_people(
    tiny_dir: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["preview", str(picture), "--provider", "cpu", "--models-dir", str(tiny_dir), "--top-k", "3"]
    assert main([*command, "--cache-dir", str(tmp_path / "cache")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{picture}: JPEG of {picture.stat().st_size} bytes, ")
    assert lines[1].startswith("decoded in ")
    assert lines[1].endswith(", at 1/8 of its sides")
    assert lines[2] == "photo.crop.png: 32x32 pixels, the centre of the picture at a shorter side of 32 (bilinear)"
    assert lines[3] == "resnet8-cifar@1 on cpu in fp32 (not measured here: the first that works); temperature 1"
    assert [line.split()[0] for line in lines[6:11]] == ["class", "class", "class", "length", "milliseconds"]
    assert lines[-1] == "cpu in fp32 is all that was asked for: --against names another to compare with"


def test_another_precision_beside_it(
    tmp_path: Path, picture: Path, preview: Preview, capsys: pytest.CaptureFixture[str]
) -> None:
    add_int8(publish_tiny(CIFAR, tmp_path / "models"))
    found = preview(picture, "--precision", "int8", models=tmp_path / "models")
    int8, fp32 = found["answers"]
    assert (int8["precision"], fp32["precision"]) == ("int8", "fp32")
    by_class = [{one["class_id"]: one["probability"] for one in answer["predictions"]} for answer in (int8, fp32)]
    differences = {class_id: abs(by_class[0][class_id] - by_class[1][class_id]) for class_id in range(10)}
    difference = found["difference"]
    assert difference["largest"] == pytest.approx(max(differences.values()), abs=1e-7) != 0
    assert difference["class_id"] == max(differences, key=lambda class_id: differences[class_id])
    assert difference["same_class"] == (int8["predictions"][0]["class_id"] == fp32["predictions"][0]["class_id"])
    command = ["preview", str(picture), "--provider", "cpu", "--models-dir", str(tmp_path / "models")]
    assert main([*command, "--against", "cpu:int8"]) == 0
    printed = capsys.readouterr().out
    assert "cpu fp32  cpu int8" in printed
    assert f"the largest difference of a probability is {difference['largest']:.6f}" in printed


def test_a_kept_image_names_its_model(tmp_path: Path, photo: bytes, preview: Preview) -> None:
    for version in (1, 2):
        publish_tiny(CIFAR, tmp_path / "models", version=version, seed=version)

    async def keep() -> None:
        request_ids.begin("order-66")
        kept = FailedImages(tmp_path / "failed")
        kept.keep([(0, photo)], {"model": "resnet8-cifar", "version": 1, "images": 1})
        assert kept._writing
        await kept._writing

    asyncio.run(keep())
    (image,) = (tmp_path / "failed").glob("*.image")
    assert preview(image, models=tmp_path / "models")["version"] == 1
    assert preview(image, "--model", "resnet8-cifar", models=tmp_path / "models")["version"] == 2
    assert Path(f"{image.stem}.crop.png").exists()
    image.with_suffix(".json").unlink()
    assert preview(image, models=tmp_path / "models")["version"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "has no default model: give --model, one of resnet18, resnet8-cifar"),
        (["--model", "x"], "there is no model x"),
        (["--model", "resnet18@2"], "resnet18 has no version 2: choose from 1"),
        (["--model", "resnet18@canary"], "resnet18 has no alias canary"),
        (["--model", "resnet18", "--out", "{file}"], "is the picture itself: give another file with --out"),
        (["--model", "resnet18", "--out", "{file}/crop.png"], "is a file: give a folder"),
    ],
)
def test_errors_are_one_sentence(
    options: list[str], message: str, tiny_dir: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = copied(tiny_dir, tmp_path / "models")
    (models / "models.json").unlink()
    given = [option.format(file=picture) for option in options]
    assert main(["preview", str(picture), "--models-dir", str(models), *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(Path().iterdir()) == []


def test_a_broken_image_has_the_services_problem(
    tiny_dir: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.write_bytes(picture.read_bytes()[:3000])
    assert main(["preview", str(picture), "--models-dir", str(tiny_dir)]) == 1
    assert capsys.readouterr().err == (
        f"error: {picture}: The image is truncated. The image ends before its last pixel: 3000 bytes were received. "
        "Send the whole file again. If the stored file is damaged, replace it.\n"
    )
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("against", ["gpu", "cpu:fp64", "cpu:fp32:x", "auto"])
def test_what_nothing_computes(against: str, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["preview", str(picture), "--against", against])
    assert "write cuda|openvino|cpu, alone or with :fp32|:bf16|:fp16|:int8" in capsys.readouterr().err


def test_it_computes_on_what_the_service_has_measured_and_measures_nothing(
    tmp_path: Path, picture: Path, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    publish_tiny(CIFAR, models)
    monkeypatch.setenv("RESNET_CACHE_DIR", str(cache))
    (before,) = preview(picture, models=models)["answers"]
    assert not before["measured"]
    assert not cache.exists()
    with TestClient(create_app(Settings(models_dir=models, provider="cpu", cache_dir=cache))) as client:
        until_ready(client)
    (after,) = preview(picture, models=models)["answers"]
    assert after["measured"]
    assert np.allclose(*([one["probability"] for one in answer["predictions"]] for answer in (before, after)))


def test_its_defaults_are_the_services() -> None:
    assert str(Settings.model_fields["cache_dir"].default) == CACHE
    assert Settings.model_fields["max_pixels"].default == MAX_PIXELS


def test_it_needs_neither_pytorch_nor_the_server(tiny_dir: Path, picture: Path) -> None:
    program = (
        "import sys; from model_export.__main__ import main; "
        f"status = main(['preview', {str(picture)!r}, '--provider', 'cpu', '--models-dir', {str(tiny_dir)!r}]); "
        "print(status, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    status, *loaded = finished.stdout.splitlines()[-1].split()
    assert status == "0"
    assert "onnxruntime" in loaded
    assert not {"torch", "onnx", "fastapi", "pydantic_settings", "matplotlib", "httpx"} & set(loaded)
    assert Path("photo.crop.png").exists()
