"""Execution providers. What needs a GPU carries the marker `gpu` and runs where there is one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from service import providers
from service.providers import (
    ORT_NAMES,
    PREFERENCE,
    Compute,
    ProviderName,
    ProviderUnavailable,
    cpu_flags,
    open_session,
    processor,
    require,
    unwanted_precision,
    unwanted_provider,
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
    def missing() -> None:
        raise ProviderUnavailable("not here")

    monkeypatch.setattr(providers, "_probe_cuda", missing)
    monkeypatch.setattr(providers, "_openvino_cpu", missing)
    for name in ("cuda", "openvino"):
        with pytest.raises(ProviderUnavailable, match="not here"):
            require(name)


def test_auto_wants_openvino_on_intel_cpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unwanted_provider("cuda") is None
    assert unwanted_provider("cpu") is None
    openvino_says(monkeypatch, FULL_DEVICE_NAME="Intel(R) Xeon(R) Processor @ 2.50GHz")
    assert unwanted_provider("openvino") is None
    for name in ("AMD EPYC 9654", ""):
        openvino_says(monkeypatch, FULL_DEVICE_NAME=name)
        reason = unwanted_provider("openvino")
        assert reason is not None
        assert f"no Intel one ({name}); set the provider to openvino" in reason


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
    assert processor("cpu")


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PREFERENCE:
        assert processor(name).strip()
    monkeypatch.setattr(providers.Path, "read_text", lambda self: X86)
    assert processor("cpu") == processor("openvino") == "Some CPU @ 1GHz"
    monkeypatch.setattr(providers.Path, "read_text", lambda self: ARM)
    assert processor("cpu")


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(providers.Path, "glob", lambda self, pattern: [tmp_path / "1", tmp_path / "0"])
    (tmp_path / "0").write_text("Model: \t NVIDIA H200\nIRQ: 12\n")
    (tmp_path / "1").write_text("Model: \t NVIDIA T4\n")
    assert processor("cuda") == "NVIDIA H200; NVIDIA T4"
    monkeypatch.setattr(providers.Path, "glob", lambda self, pattern: [])
    assert processor("cuda") == "unknown GPU"


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
    answers = [open_session(model, name, threads=1).ort.run(["logits"], images(3))[0] for name in names]
    np.testing.assert_allclose(*answers, rtol=0.01, atol=0.01)
