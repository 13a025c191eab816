"""Execution providers. What needs a GPU carries the marker `gpu` and runs where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from service import cuda, providers
from service.cuda import Gpu
from service.engine import CONSTANT
from service.providers import (
    ORT_NAMES,
    PREFERENCE,
    Compute,
    ProviderName,
    ProviderUnavailable,
    cpu_flags,
    cuda_options,
    hardware,
    open_session,
    processor,
    require,
    unwanted_precision,
    usable_cores,
)

pytestmark = pytest.mark.machine

HAS_CUDA = ORT_NAMES["cuda"] in ort.get_available_providers()


@pytest.fixture
def model(models_dir: Path) -> Path:
    return models_dir / "resnet8-cifar" / "1" / "model.onnx"


def openvino_or_skip() -> None:
    try:
        providers._openvino_cpu()
    except ProviderUnavailable as error:
        pytest.skip(str(error))


def test_the_fastest_come_first_and_fp32_is_always_the_last() -> None:
    assert list(PREFERENCE) == ["cuda", "openvino", "cpu"]
    assert PREFERENCE["cuda"] == ("fp16", "fp32")
    assert PREFERENCE["openvino"] == ("int8", "bf16", "fp32")
    assert PREFERENCE["cpu"] == ("int8", "fp32")


def test_cpu(model: Path) -> None:
    session = open_session(model, "cpu", threads=1)
    assert (session.provider, session.compute) == ("cpu", "fp32")
    assert session.ort.get_providers() == ["CPUExecutionProvider"]


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)}


@pytest.mark.parametrize("streams", [1, 2])
def test_openvino_runs_the_whole_graph_itself(model: Path, streams: int) -> None:
    openvino_or_skip()
    session = open_session(model, "openvino", threads=2, streams=streams)
    assert (session.provider, session.compute) == ("openvino", "fp32")
    assert session.ort.get_providers()[0] == "OpenVINOExecutionProvider"
    # fallback of single nodes to the CPU provider was forbidden; that it answers shows that none was needed
    (logits,) = session.ort.run(["logits"], images(3))
    (expected,) = open_session(model, "cpu", threads=1).ort.run(["logits"], images(3))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_openvino_asked_for_again_gives_the_same_reason() -> None:
    reasons = []
    for _ in range(2):
        try:
            require("openvino")
        except ProviderUnavailable as error:
            reasons.append(str(error))
    assert len(set(reasons)) <= 1
    assert not any("already registered" in reason for reason in reasons)


def test_openvino_in_bf16_is_another_arithmetic(model: Path) -> None:
    openvino_or_skip()
    if not providers._has_bf16():
        pytest.skip("this CPU has no instructions for bfloat16")
    session = open_session(model, "openvino", "bf16", threads=1)
    assert session.compute == "bf16"
    (rounded,) = session.ort.run(["logits"], images(3))
    (exact,) = open_session(model, "openvino", "fp32", threads=1).ort.run(["logits"], images(3))
    assert not np.array_equal(rounded, exact)
    assert np.abs(rounded - exact).max() < 0.1 * np.ptp(exact)


def test_bf16_on_a_cpu_that_has_none_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_or_skip()
    monkeypatch.setattr(providers, "_has_bf16", lambda: False)
    with pytest.raises(ProviderUnavailable, match="this CPU has no instructions for bfloat16"):
        open_session(model, "openvino", "bf16", threads=1)


def openvino_says(monkeypatch: pytest.MonkeyPatch, **metadata: str) -> None:
    """What its CPU device tells of itself."""
    monkeypatch.setattr(providers, "_openvino_cpu", lambda: SimpleNamespace(ep_metadata=metadata))


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [("FP32 INT8 BIN EXPORT_IMPORT", False), ("BF16 FP32 INT8", True), ("XBF16", False), ("", False)],
)
def test_bf16_is_what_the_plug_in_says(monkeypatch: pytest.MonkeyPatch, capabilities: str, has: bool) -> None:
    openvino_says(monkeypatch, OPTIMIZATION_CAPABILITIES=capabilities)
    assert providers._has_bf16() is has


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
def test_a_precision_that_the_provider_does_not_have(
    model: Path, provider: ProviderName, precision: Compute, message: str
) -> None:
    with pytest.raises(ProviderUnavailable, match=message):
        open_session(model, provider, precision, threads=1)


def test_the_cpu_is_always_there() -> None:
    require("cpu")


def test_what_is_required_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> None:
        raise ProviderUnavailable("not here")

    monkeypatch.setattr(providers, "_probe_cuda", missing)
    monkeypatch.setattr(providers, "_openvino_cpu", missing)
    for name in ("cuda", "openvino"):
        with pytest.raises(ProviderUnavailable, match="not here"):
            require(name)


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
    for provider, computes in PREFERENCE.items():
        for compute in computes:
            if (provider, compute) != ("cpu", "int8"):
                assert unwanted_precision(provider, compute) is None


X86 = "processor\t: 0\nmodel name\t: Some CPU @ 1GHz\nflags\t\t: fpu avx2 avx_vnni\n\nprocessor\t: 1\nflags\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "flags"),
    [(X86, {"fpu", "avx2", "avx_vnni"}), (ARM, {"fp", "asimd", "asimddp"}), ("processor: 0\n", set()), ("", set())],
)
def test_the_flags_are_those_that_linux_names(monkeypatch: pytest.MonkeyPatch, text: str, flags: set[str]) -> None:
    monkeypatch.setattr(providers.Path, "read_text", lambda self: text)
    assert cpu_flags() == flags


def unreadable(self: Path) -> str:
    raise FileNotFoundError


def test_where_nothing_can_be_read_there_are_no_flags_and_still_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.Path, "read_text", unreadable)
    assert cpu_flags() == frozenset()
    assert processor()


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor().strip()
    monkeypatch.setattr(providers.Path, "read_text", lambda self: X86)
    assert processor() == "Some CPU @ 1GHz"
    monkeypatch.setattr(providers.Path, "read_text", lambda self: ARM)
    assert processor()


def test_measurements_on_a_cpu_hold_for_its_model() -> None:
    for name in ("cpu", "openvino"):
        assert hardware(name, "fp32") == {"processor": processor()}


H100 = Gpu("NVIDIA H100", "GPU-1", 80 << 30, "13.0")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, whose driver and libraries are there."""
    gpus = (H100, H100._replace(uuid="GPU-2"))
    monkeypatch.setattr(providers, "_probe_cuda", gpus.__getitem__)
    monkeypatch.setattr(cuda, "cudnn_version", lambda: "92800")
    monkeypatch.setattr(cuda, "driver_version", lambda: "580.1")


def test_measurements_on_a_gpu_hold_for_it_and_all_it_runs_with(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hardware("cuda", "fp16")
    assert found == {
        "processor": f"NVIDIA H100, {80 << 30} bytes, GPU-1",
        "driver": "580.1, CUDA 13.0",
        "cudnn": "92800",
        "options": json.dumps(cuda_options("fp16"), sort_keys=True),
    }
    assert hardware("cuda", "fp32")["options"] != found["options"]
    assert hardware("cuda", "fp16", gpu=1)["processor"] != found["processor"]
    monkeypatch.setattr(cuda, "cudnn_version", lambda: "92900")
    assert hardware("cuda", "fp16")["cudnn"] != found["cudnn"]


def test_tensor_cores_are_barred_to_fp32_alone() -> None:
    """ONNX Runtime 1.31 gives fp16 no plan on tensor cores either where TF32 is off."""
    assert cuda_options("fp16")["use_tf32"] == "1"
    assert cuda_options("fp32")["use_tf32"] == "0"
    assert cuda_options("fp16", gpu=3)["device_id"] == "3"


def test_a_cuda_session_is_asked_for_with_its_options_and_without_a_fallback(
    model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    class Session:
        def __init__(self, path: Path, options: ort.SessionOptions, **rest: object) -> None:
            asked.append({"fallback": options.get_session_config_entry("session.disable_cpu_ep_fallback"), **rest})

        def get_providers(self) -> list[str]:
            return [ORT_NAMES["cuda"]]

    monkeypatch.setattr(ort, "InferenceSession", Session)
    open_session(model, "cuda", "fp16", threads=1, gpu=1)
    assert asked == [
        {
            "fallback": "1",
            "providers": [("CUDAExecutionProvider", cuda_options("fp16", 1))],
            "enable_fallback": 0,
        }
    ]


def test_a_session_keeps_the_true_reason(model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own fallback would try the CPU and report what is wrong with that."""
    real = ort.InferenceSession

    class Failing(real):  # type: ignore[misc, valid-type]
        def _create_inference_session(self, *args: object) -> None:
            raise RuntimeError("CUDA failure 35")

    monkeypatch.setattr(ort, "InferenceSession", Failing)
    monkeypatch.setattr(cuda, "provider_fault", lambda: None)
    with pytest.raises(ProviderUnavailable, match=r"CUDAExecutionProvider does not run .*: CUDA failure 35$"):
        open_session(model, "cuda", threads=1)


def test_where_the_provider_itself_does_not_load_that_is_the_reason(
    model: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime logs it, makes a session without the provider, and fails because our options forbid that."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, **rest: real(path, options, enable_fallback=0))
    monkeypatch.setattr(cuda, "provider_fault", lambda: "undefined symbol: cuTensorMapEncodeTiled")
    with pytest.raises(ProviderUnavailable, match=r"does not load: undefined symbol: cuTensorMapEncodeTiled$"):
        open_session(model, "cuda", threads=1)


def test_a_session_of_one_batch_size(model: Path) -> None:
    session = open_session(model, "cpu", threads=1, batch=2).ort
    assert session.get_inputs()[0].shape == [2, 3, 32, 32]
    assert session.run(["logits"], images(2))[0].shape == (2, 10)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_without_cuda_the_message_names_the_package(model: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"built without CUDA: install the `cuda` extra \(onnxruntime-gpu\)"):
        open_session(model, "cuda", threads=1)


def test_what_cuda_lacks_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(number: int, major: int) -> Gpu:
        raise cuda.CudaMissing(f"no GPU {number} for CUDA {major}")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [ORT_NAMES["cuda"], ORT_NAMES["cpu"]])
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    monkeypatch.setattr(cuda, "probe", probe)
    providers._probe_cuda.cache_clear()
    with pytest.raises(ProviderUnavailable, match=r"^no GPU 1 for CUDA 13$"):
        open_session(model, "cuda", threads=1, gpu=1)


def test_without_the_plug_in_the_message_names_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "find_spec", lambda name: None)
    monkeypatch.setattr(providers, "_openvino_cpu", providers._openvino_cpu.__wrapped__)
    with pytest.raises(ProviderUnavailable, match="pip install onnxruntime-ep-openvino"):
        open_session(model, "openvino", threads=1)


def test_a_session_on_another_provider_than_asked_for_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does when a CUDA library is missing: a session on the CPU, without an error."""
    real = ort.InferenceSession
    monkeypatch.setattr(providers, "_probe_cuda", lambda gpu: H100)
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **rest: real(path, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ProviderUnavailable, match="asked for CUDAExecutionProvider, onnxruntime gave CPUExec"):
        open_session(model, "cuda", threads=1)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ProviderUnavailable, match=f"does not run {broken}"):
        open_session(broken, "cpu", threads=1)


V2 = {"/proc/self/cgroup": "0::/\n"}
SYSTEMD = {"/proc/self/cgroup": "0::/system.slice/resnet.service\n"}
V1 = {"/proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"}
GROUPS = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {f"{GROUPS}/cpu.max": "max 100000\n"}, 8),
        (V2 | {f"{GROUPS}/cpu.max": "250000 100000\n"}, 2),
        (V2 | {f"{GROUPS}/cpu.max": "50000 100000\n"}, 1),
        (V2 | {f"{GROUPS}/cpu.max": "1600000 100000\n"}, 8),
        (V2 | {f"{GROUPS}/cpu.max": "nonsense"}, 8),
        (SYSTEMD | {f"{GROUPS}/system.slice/resnet.service/cpu.max": "300000 100000\n"}, 3),
        (SYSTEMD | {f"{GROUPS}/system.slice/cpu.max": "400000 100000\n"}, 4),
        (
            SYSTEMD
            | {
                f"{GROUPS}/system.slice/resnet.service/cpu.max": "max 100000\n",
                f"{GROUPS}/system.slice/cpu.max": "200000 100000\n",
            },
            2,
        ),
        (V1, 8),
        (V1 | {f"{GROUPS}/cpu/cpu.cfs_quota_us": "150000\n", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n"}, 1),
        (
            V1
            | {
                f"{GROUPS}/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
                f"{GROUPS}/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (V1 | {f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1\n", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_cores_are_those_of_the_control_groups(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    def read_text(self: Path) -> str:
        if str(self) not in files:
            raise FileNotFoundError(str(self))
        return files[str(self)]

    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(providers.Path, "read_text", read_text)
    assert usable_cores() == cores


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
