"""Published models, and providers that are there on any machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service import loading
from service.card import SelfTest
from tests.service.engines import Opened, with_file


@pytest.fixture
def folder(models_dir: Path) -> Path:
    return models_dir / "resnet18" / "1"


@pytest.fixture
def small(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1"


@pytest.fixture(scope="module")
def quantised(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`resnet8-cifar` with an int8 file, which no gate has seen."""

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"image": SelfTest.read(folder).images}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    folder = tmp_path_factory.mktemp("quantised") / "resnet8-cifar" / "1"
    shutil.copytree(models_dir / "resnet8-cifar" / "1", folder)
    quantize_static(
        folder / "model.onnx",
        folder / "model.int8.onnx",
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
    )
    (folder / "card.json").write_text(with_file(folder, "int8", None).to_json())
    return folder


@pytest.fixture
def anything_goes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Opened], Opened]:
    """Every provider is there and wanted, on any machine."""

    def install(opened: Opened) -> Opened:
        monkeypatch.setattr(loading, "require", lambda provider, gpu: None)
        monkeypatch.setattr(loading, "hardware", lambda provider, precision, gpu: {"gpu": str(gpu)})
        monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: None)
        monkeypatch.setattr(loading, "open_session", opened)
        return opened

    return install
