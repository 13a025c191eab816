"""The OpenVINO plug-in, where it is installed and where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from service.runtime import openvino
from service.runtime.openvino import OpenVinoMissing

pytestmark = pytest.mark.machine


@pytest.fixture(autouse=True)
def _without_cached_device() -> Iterator[None]:
    openvino.cpu_device.cache_clear()
    yield
    openvino.cpu_device.cache_clear()


def test_the_plug_in_offers_the_cpu() -> None:
    try:
        device = openvino.cpu_device()
    except OpenVinoMissing as error:
        pytest.skip(str(error))
    assert device.ep_name == openvino.PROVIDER == "OpenVINOExecutionProvider"
    assert openvino.cpu_device() is device


def test_a_second_attempt_gives_the_same_reason() -> None:
    reasons = []
    for _ in range(2):
        try:
            openvino.cpu_device()
        except OpenVinoMissing as error:
            reasons.append(str(error))
    assert len(set(reasons)) <= 1
    assert not any("already registered" in reason for reason in reasons)


def test_without_the_plug_in_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(OpenVinoMissing, match="pip install onnxruntime-ep-openvino"):
        openvino.cpu_device()


@pytest.mark.parametrize(
    ("capabilities", "supported"),
    [("FP32 INT8 BIN EXPORT_IMPORT", False), ("BF16 FP32 INT8", True), ("XBF16", False), ("", False)],
)
def test_the_plug_in_decides_whether_there_is_bf16(
    monkeypatch: pytest.MonkeyPatch, capabilities: str, supported: bool
) -> None:
    metadata = {"OPTIMIZATION_CAPABILITIES": capabilities}
    monkeypatch.setattr(openvino, "cpu_device", lambda: SimpleNamespace(ep_metadata=metadata))
    assert openvino.supports_bf16() is supported
