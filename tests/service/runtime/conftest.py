"""Published models, and providers that are available on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service.runtime import loading, placement, static_engine, tuning_keys
from service.runtime.providers import Session
from service.runtime.self_test import SelfTest
from tests.service.runtime.engines import Opened, unchanged, with_file
from tests.support.folders import copied, shared_folder


@pytest.fixture
def resnet18(models_dir: Path) -> Path:
    return models_dir / "resnet18" / "1"


@pytest.fixture
def resnet8(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1"


@pytest.fixture
def published(resnet8: Path, tmp_path: Path) -> Path:
    """A copy of a published version, `resnet8-cifar/1`, which a test may change."""
    return copied(resnet8, tmp_path / "resnet8-cifar" / "1")


@pytest.fixture(scope="session")
def quantised(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`resnet8-cifar` with an int8 file that passed no gate yet."""

    def build(root: Path) -> None:
        folder = copied(models_dir / "resnet8-cifar" / "1", root / "resnet8-cifar" / "1")
        quantize_static(
            folder / "model.onnx",
            folder / "model.int8.onnx",
            SelfTestImages(folder),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm"],
        )
        (folder / "card.json").write_text(with_file(folder, "int8", None).to_json())

    with shared_folder(tmp_path_factory, "quantised", build) as root:
        yield root / "resnet8-cifar" / "1"


class SelfTestImages(CalibrationDataReader):
    """One batch for calibration: the images of the self-test."""

    def __init__(self, folder: Path) -> None:
        self._batches = [{"image": SelfTest.read(folder).images}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._batches.pop() if self._batches else None


@pytest.fixture
def all_providers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    """Makes every provider and precision available on any machine: `all_providers(wrap)`, see `Opened`."""

    def install(wrap: Callable[[Session, int], Session] = unchanged) -> Opened:
        opened = Opened(wrap)
        monkeypatch.setattr(loading, "require", lambda provider, gpu: None)
        monkeypatch.setattr(tuning_keys, "hardware", lambda provider, precision, gpu: {"gpu": str(gpu)})
        monkeypatch.setattr(loading, "unwanted_precision", lambda provider, precision: None)
        monkeypatch.setattr(placement, "open_session", opened)
        monkeypatch.setattr(static_engine, "page_locked", lambda shape, gpu: np.zeros(shape, np.uint8))
        return opened

    return install
