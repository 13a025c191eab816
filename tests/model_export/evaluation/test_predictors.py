"""PyTorch and ONNX Runtime give the same answers, for images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor, TorchPredictor
from model_export.export.publish import publish
from model_export.weights.random_weights import random_weights
from service.runtime.choices import ProviderChoice
from service.runtime.model_card import Architecture
from service.runtime.model_folder import CardError, model_versions
from service.runtime.providers import ProviderUnavailable
from tests.support.folders import copied

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
ARCHITECTURES = {"resnet18": Architecture(depth=18), "resnet8-cifar": CIFAR}


def onnx(models_dir: Path, name: str, provider: ProviderChoice = "cpu") -> OnnxPredictor:
    entry = next(entry for entry in model_versions(models_dir) if entry.name == name)
    try:
        return OnnxPredictor(entry, provider)
    except ProviderUnavailable as error:
        pytest.skip(str(error))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (2, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("name", [pytest.param("resnet18", marks=pytest.mark.slow), "resnet8-cifar"])
def test_logits_are_pytorchs_at_any_size(models_dir: Path, name: str, provider: ProviderChoice) -> None:
    here = TorchPredictor(random_weights(ARCHITECTURES[name]), "here")
    served = onnx(models_dir, name, provider)
    crop = here.preprocessing.crop
    allowed = 1e-4 if served.engine.info.precision == "fp32" else 0.03  # relative to the range; bf16 has 8 bits
    for size in ((crop, crop), (crop + 31, 2 * crop - 7), (2 * crop, crop)):
        expected, found = here.logits(noise(*size)), served.logits(noise(*size))
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        assert expected.dtype == np.float32
        assert np.abs(found - expected).max() < allowed * np.ptp(expected)


def test_metadata(models_dir: Path) -> None:
    served = onnx(models_dir, "resnet8-cifar")
    assert served.name == "resnet8-cifar 1 (cpu, fp32)"
    assert served.architecture == CIFAR
    assert served.preprocessing.crop == 32
    assert served.labels[3].name == "class 3"
    here = TorchPredictor(random_weights(CIFAR), "runs/x/best.safetensors")
    assert (here.name, here.architecture, here.labels) == ("runs/x/best.safetensors", CIFAR, served.labels)
    assert here.preprocessing == served.preprocessing


@pytest.mark.slow
def test_a_mean_per_pixel_fixes_the_size_in_onnx(tmp_path: Path) -> None:
    loaded = random_weights(CIFAR)
    mean_image = torch.from_numpy(noise(32, 32)[0]).float()
    r, g, b = (mean_image.mean(dim=(1, 2)) / 255).tolist()
    preprocessing = loaded.preprocessing.model_copy(update={"mean_image": True, "mean": (r, g, b)})
    loaded = loaded._replace(preprocessing=preprocessing, mean_image=mean_image)
    publish(loaded, tmp_path)
    here, served = TorchPredictor(loaded, "here"), onnx(tmp_path, "resnet8-cifar")
    np.testing.assert_allclose(served.logits(noise(32, 32)), here.logits(noise(32, 32)), atol=1e-4)
    assert here.logits(noise(40, 32)).shape == (2, 10)
    with pytest.raises(InputError, match=r"subtracts a mean per pixel.*give the PyTorch weights instead"):
        served.logits(noise(40, 32))


def test_a_damaged_model_is_refused(models_dir: Path, tmp_path: Path) -> None:
    folder = copied(models_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(CardError, match="its card says"):
        onnx(tmp_path, "resnet8-cifar")


def test_no_cuda_here() -> None:
    if torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    with pytest.raises(InputError, match="no CUDA device here: evaluate with `--device cpu`"):
        TorchPredictor(random_weights(CIFAR), "x", "cuda")
