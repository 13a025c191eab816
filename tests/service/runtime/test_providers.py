"""Execution providers: what they need, and the sessions on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.runtime import cuda, openvino, providers
from service.runtime.choices import PREFERENCE, Precision, ProviderName
from service.runtime.cuda import Gpu
from service.runtime.machine import processor
from service.runtime.providers import (
    ORT_NAMES,
    ProviderUnavailable,
    cuda_options,
    hardware,
    open_session,
    openvino_options,
    require,
    unwanted_precision,
)
from service.runtime.self_test import CONSTANT

pytestmark = pytest.mark.machine

HAS_CUDA = ORT_NAMES["cuda"] in ort.get_available_providers()


@pytest.fixture
def model(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1" / "model.onnx"


def openvino_or_skip() -> None:
    try:
        require("openvino")
    except ProviderUnavailable as error:
        pytest.skip(str(error))


def test_the_fastest_precision_comes_first_and_fp32_last() -> None:
    assert list(PREFERENCE) == ["cuda", "openvino", "cpu"]
    assert PREFERENCE["cuda"] == ("fp16", "fp32")
    assert PREFERENCE["openvino"] == ("int8", "bf16", "fp32")
    assert PREFERENCE["cpu"] == ("int8", "fp32")


def test_a_session_on_the_cpu(model: Path) -> None:
    session = open_session(model, "cpu", threads=1)
    assert (session.provider, session.precision) == ("cpu", "fp32")
    assert session.ort.get_providers() == ["CPUExecutionProvider"]


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)}


@pytest.mark.parametrize("lanes", [1, 2])
def test_openvino_runs_the_whole_graph_itself(model: Path, lanes: int) -> None:
    openvino_or_skip()
    session = open_session(model, "openvino", threads=2, lanes=lanes)
    assert (session.provider, session.precision) == ("openvino", "fp32")
    assert session.ort.get_providers()[0] == "OpenVINOExecutionProvider"
    # Single nodes may not fall back to the CPU provider, so an answer shows that OpenVINO runs the whole graph.
    (logits,) = session.ort.run(["logits"], images(3))
    (expected,) = open_session(model, "cpu", threads=1).ort.run(["logits"], images(3))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_openvino_in_bf16_rounds_differently(model: Path) -> None:
    openvino_or_skip()
    if not openvino.supports_bf16():
        pytest.skip("this CPU has no instructions for bfloat16")
    session = open_session(model, "openvino", "bf16", threads=1)
    assert session.precision == "bf16"
    (rounded,) = session.ort.run(["logits"], images(3))
    (exact,) = open_session(model, "openvino", "fp32", threads=1).ort.run(["logits"], images(3))
    assert not np.array_equal(rounded, exact)
    assert np.abs(rounded - exact).max() < 0.1 * np.ptp(exact)


def test_bf16_on_a_cpu_without_it_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_or_skip()
    monkeypatch.setattr(openvino, "supports_bf16", lambda: False)
    with pytest.raises(ProviderUnavailable, match="this CPU has no instructions for bfloat16"):
        open_session(model, "openvino", "bf16", threads=1)


def test_openvino_options() -> None:
    cpu = {"INFERENCE_NUM_THREADS": 4, "NUM_STREAMS": 2, "ENABLE_CPU_PINNING": False}
    hints: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
    for precision, hint in hints.items():
        options = openvino_options(precision, threads=4, lanes=2)
        assert json.loads(options["load_config"]) == {"CPU": cpu | {"INFERENCE_PRECISION_HINT": hint}}
    assert json.loads(openvino_options("int8", threads=4, lanes=2)["load_config"]) == {"CPU": cpu}


@pytest.mark.parametrize(
    ("provider", "precision", "message"),
    [
        ("cpu", "bf16", "cpu computes in int8, fp32, not in bf16"),
        ("cpu", "fp16", "cpu computes in int8, fp32, not in fp16"),
        ("openvino", "fp16", "openvino computes in int8, bf16, fp32, not in fp16"),
        ("cuda", "int8", "cuda computes in fp16, fp32, not in int8"),
        ("cuda", "bf16", "cuda computes in fp16, fp32, not in bf16"),
    ],
)
def test_a_precision_that_the_provider_does_not_support(
    model: Path, provider: ProviderName, precision: Precision, message: str
) -> None:
    with pytest.raises(ProviderUnavailable, match=message):
        open_session(model, provider, precision, threads=1)


def test_the_cpu_is_always_available() -> None:
    require("cpu")


def test_what_a_provider_lacks_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(number: int) -> None:
        raise cuda.CudaMissing(f"no GPU {number}")

    def no_plugin() -> None:
        raise openvino.OpenVinoMissing("no plug-in")

    monkeypatch.setattr(cuda, "probe", no_gpu)
    monkeypatch.setattr(openvino, "cpu_device", no_plugin)
    reasons: dict[ProviderName, str] = {"cuda": "no GPU 1", "openvino": "no plug-in"}
    for name, reason in reasons.items():
        with pytest.raises(ProviderUnavailable, match=rf"^{reason}$"):
            require(name, 1)
        with pytest.raises(ProviderUnavailable, match=rf"^{reason}$"):
            open_session(model, name, threads=1, gpu=1)
    with pytest.raises(ProviderUnavailable, match=r"^no GPU 1$"):
        hardware("cuda", "fp32", 1)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"avx2", "avx512_vnni"}, True),
        ({"avx_vnni"}, True),
        ({"amx_int8"}, True),
        ({"asimd", "asimddp"}, True),
        ({"avx2", "avx512f", "avx512bw"}, False),
        (set(), False),
    ],
)
def test_auto_wants_int8_on_the_cpu_only_with_vnni(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], wanted: bool
) -> None:
    monkeypatch.setattr(providers, "cpu_flags", lambda: frozenset(flags))
    reason = unwanted_precision("cpu", "int8")
    assert (reason is None) is wanted
    assert wanted or "no VNNI" in (reason or "")
    for provider, precisions in PREFERENCE.items():
        for precision in precisions:
            if (provider, precision) not in (("cpu", "int8"), ("openvino", "bf16")):
                assert unwanted_precision(provider, precision) is None


def test_auto_wants_bf16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "cpu_device", lambda: None)
    for supported, reason in ((True, None), (False, "this CPU has no instructions for bfloat16")):
        monkeypatch.setattr(openvino, "supports_bf16", lambda supported=supported: supported)
        assert unwanted_precision("openvino", "bf16") == reason

    def missing() -> None:
        raise openvino.OpenVinoMissing("no plug-in")

    monkeypatch.setattr(openvino, "cpu_device", missing)
    with pytest.raises(ProviderUnavailable, match="no plug-in"):
        unwanted_precision("openvino", "bf16")


def test_the_hardware_of_a_cpu_is_its_model() -> None:
    for name in ("cpu", "openvino"):
        assert hardware(name, "fp32") == {"processor": processor()}


H100 = Gpu("NVIDIA H100", "GPU-1", 80 << 30, "13.0")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs and all that CUDA needs."""
    gpus = (H100, H100._replace(uuid="GPU-2"))
    monkeypatch.setattr(cuda, "probe", gpus.__getitem__)
    monkeypatch.setattr(cuda, "wait_asleep", lambda number: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(cuda, "cudnn_version", lambda: "92800")
    monkeypatch.setattr(cuda, "driver_version", lambda: "580.1")


def test_the_hardware_of_a_gpu_includes_driver_libraries_and_options(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hardware("cuda", "fp16")
    assert first == {
        "processor": f"NVIDIA H100, {80 << 30} bytes, GPU-1",
        "driver": "580.1, CUDA 13.0",
        "cudnn": "92800",
        "options": json.dumps(cuda_options("fp16"), sort_keys=True),
    }
    assert hardware("cuda", "fp32")["options"] != first["options"]
    assert hardware("cuda", "fp16", gpu=1)["processor"] != first["processor"]
    monkeypatch.setattr(cuda, "cudnn_version", lambda: "92900")
    assert hardware("cuda", "fp16")["cudnn"] != first["cudnn"]


def test_cuda_uses_tensor_cores_except_in_fp32() -> None:
    """ONNX Runtime 1.31 needs TF32 on even to compute fp16 on tensor cores."""
    assert cuda_options("fp16")["use_tf32"] == "1"
    assert cuda_options("fp32")["use_tf32"] == "0"
    assert cuda_options("fp16", gpu=3)["device_id"] == "3"


def test_a_cuda_session_is_opened_with_its_options_and_without_a_fallback(
    model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[dict[str, object]] = []

    class Session:
        def __init__(self, path: Path, options: ort.SessionOptions, **rest: object) -> None:
            arguments.append({"fallback": options.get_session_config_entry("session.disable_cpu_ep_fallback"), **rest})

        def get_providers(self) -> list[str]:
            return [ORT_NAMES["cuda"]]

    monkeypatch.setattr(ort, "InferenceSession", Session)
    open_session(model, "cuda", "fp16", threads=1, gpu=1)
    assert arguments == [
        {
            "fallback": "1",
            "providers": [("CUDAExecutionProvider", cuda_options("fp16", 1))],
            "enable_fallback": 0,
        }
    ]


def test_an_openvino_session_is_opened_with_its_device_and_without_a_fallback(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[object, object]] = []
    arguments: list[dict[str, object]] = []

    class Options(ort.SessionOptions):  # type: ignore[misc]
        def add_provider_for_devices(self, devices: object, options: object) -> None:
            added.append((devices, options))

    class Session:
        def __init__(self, path: Path, options: ort.SessionOptions, **rest: object) -> None:
            arguments.append({"fallback": options.get_session_config_entry("session.disable_cpu_ep_fallback"), **rest})

        def get_providers(self) -> list[str]:
            return [ORT_NAMES["openvino"]]

    monkeypatch.setattr(openvino, "cpu_device", lambda: "the CPU")
    monkeypatch.setattr(ort, "SessionOptions", Options)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    open_session(model, "openvino", "int8", threads=4, lanes=2)
    assert added == [(["the CPU"], openvino_options("int8", threads=4, lanes=2))]
    assert arguments == [{"fallback": "1", "providers": None, "enable_fallback": 0}]


def test_a_failed_session_keeps_its_reason(model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own fallback would try the CPU, and report why that fails."""
    real = ort.InferenceSession

    class Failing(real):  # type: ignore[misc, valid-type]
        def _create_inference_session(self, *args: object) -> None:
            raise RuntimeError("CUDA failure 35")

    monkeypatch.setattr(ort, "InferenceSession", Failing)
    monkeypatch.setattr(cuda, "provider_fault", lambda: None)
    with pytest.raises(ProviderUnavailable, match=r"CUDAExecutionProvider does not run .*: CUDA failure 35$"):
        open_session(model, "cuda", threads=1)


def test_the_reason_is_that_the_provider_library_does_not_load(
    model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime only logs it, and fails because our options forbid a session without the provider."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, **rest: real(path, options, enable_fallback=0))
    monkeypatch.setattr(cuda, "provider_fault", lambda: "undefined symbol: cuTensorMapEncodeTiled")
    with pytest.raises(ProviderUnavailable, match=r"does not load: undefined symbol: cuTensorMapEncodeTiled$"):
        open_session(model, "cuda", threads=1)


def test_a_session_for_one_batch_size(model: Path) -> None:
    session = open_session(model, "cpu", threads=1, batch=2).ort
    assert session.get_inputs()[0].shape == [2, 3, 32, 32]
    assert session.run(["logits"], images(2))[0].shape == (2, 10)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_without_cuda_the_message_names_the_package(model: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"built without CUDA: install the `cuda` extra \(onnxruntime-gpu\)"):
        open_session(model, "cuda", threads=1)


def test_a_session_on_another_provider_than_asked_for_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does when a CUDA library is missing: a session on the CPU, without an error."""
    real = ort.InferenceSession
    monkeypatch.setattr(providers, "require", lambda provider, gpu: None)
    monkeypatch.setattr(cuda, "wait_asleep", lambda number: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **rest: real(path, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ProviderUnavailable, match="asked for CUDAExecutionProvider, but onnxruntime opened CPUExec"):
        open_session(model, "cuda", threads=1)


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ProviderUnavailable, match=f"does not run {broken}"):
        open_session(broken, "cpu", threads=1)


needs_gpu = pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu and an NVIDIA GPU")


@pytest.mark.gpu
@needs_gpu
def test_cuda_in_fp32_answers_as_the_cpu_does(model: Path) -> None:
    session = open_session(model, "cuda", threads=1)
    assert session.ort.get_providers()[0] == "CUDAExecutionProvider"
    (found,) = session.ort.run(["logits"], images(3))
    (expected,) = open_session(model, "cpu", threads=1).ort.run(["logits"], images(3))
    assert np.abs(found - expected).max() < CONSTANT["fp32"] * np.ptp(expected)


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_is_described() -> None:
    found = hardware("cuda", "fp16")
    assert re.fullmatch(r".*, \d+ bytes, GPU-[0-9a-f-]{36}", found["processor"])
    assert found["cudnn"].isdigit()
