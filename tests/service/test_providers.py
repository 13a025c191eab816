"""Execution providers. What needs a GPU carries the marker `gpu` and runs where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service import providers
from service.providers import (
    ORT_NAMES,
    ProviderName,
    ProviderUnavailable,
    candidates,
    open_session,
    usable_cores,
)

HAS_CUDA = ORT_NAMES["cuda"] in ort.get_available_providers()


@pytest.fixture
def model(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1" / "model.onnx"


def openvino_or_skip() -> None:
    try:
        providers._openvino_cpu()
    except ProviderUnavailable as error:
        pytest.skip(str(error))


def test_auto_tries_the_fastest_first_and_an_explicit_choice_only_itself() -> None:
    assert candidates("auto") == ("cuda", "openvino", "cpu")
    assert candidates("cpu") == ("cpu",)


def test_cpu(model: Path) -> None:
    session = open_session(model, "cpu", threads=1)
    assert (session.provider, session.compute) == ("cpu", "fp32")
    assert session.ort.get_providers() == ["CPUExecutionProvider"]


def test_openvino_runs_the_whole_graph_itself(model: Path) -> None:
    openvino_or_skip()
    session = open_session(model, "openvino", threads=1)
    assert session.ort.get_providers()[0] == "OpenVINOExecutionProvider"
    # fallback of single nodes to the CPU provider was forbidden; that it answers shows that none was needed
    (logits,) = session.ort.run(["logits"], {"image": np.zeros((3, 3, 32, 32), np.uint8)})
    assert logits.shape == (3, 10)
    bf16 = "BF16" in providers._openvino_cpu().ep_metadata["OPTIMIZATION_CAPABILITIES"].split()
    assert session.compute == ("bf16" if bf16 else "fp32")


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_without_cuda_the_message_names_the_package(model: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"built without CUDA: install the `cuda` extra \(onnxruntime-gpu\)"):
        open_session(model, "cuda", threads=1)


def test_a_machine_without_a_driver_is_told_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [ORT_NAMES["cuda"], ORT_NAMES["cpu"]])
    providers._probe_cuda.cache_clear()
    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver is visible"):
        open_session(model, "cuda", threads=1)
    providers._probe_cuda.cache_clear()


def test_without_the_plug_in_the_message_names_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "find_spec", lambda name: None)
    monkeypatch.setattr(providers, "_openvino_cpu", providers._openvino_cpu.__wrapped__)
    with pytest.raises(ProviderUnavailable, match="pip install onnxruntime-ep-openvino"):
        open_session(model, "openvino", threads=1)


def test_a_session_on_another_provider_than_asked_for_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does when a CUDA library is missing: a session on the CPU, without an error."""
    real = ort.InferenceSession
    monkeypatch.setattr(providers, "_probe_cuda", lambda: None)
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, providers: real(path, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ProviderUnavailable, match="asked for CUDAExecutionProvider, onnxruntime gave CPUExec"):
        open_session(model, "cuda", threads=1)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ProviderUnavailable, match=f"does not run {broken}"):
        open_session(broken, "cpu", threads=1)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(providers.Path, "read_text", lambda self: quota)
    assert usable_cores() == cores


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu and an NVIDIA GPU")
def test_cuda(model: Path) -> None:
    session = open_session(model, "cuda", threads=1)
    assert session.ort.get_providers()[0] == "CUDAExecutionProvider"
    names: tuple[ProviderName, ...] = ("cuda", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    answers = [open_session(model, name, threads=1).ort.run(["logits"], {"image": images})[0] for name in names]
    np.testing.assert_allclose(*answers, rtol=0.01, atol=0.01)
