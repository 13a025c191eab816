"""Execution providers: which there are, why one cannot be had, and sessions that run on the one that was meant.

ONNX Runtime falls back to its CPU provider silently when a CUDA library is missing, and half-silently for single
nodes. Nothing here is silent: a provider is probed first, the session is told not to fall back, and what it got is
checked. (The numeric proof is `Engine.self_test`.)
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import onnxruntime as ort

from service import cuda

ProviderName = Literal["cuda", "openvino", "cpu"]
ProviderChoice = Literal["auto", "cuda", "openvino", "cpu"]

# What the arithmetic runs in. bf16 is made of the fp32 file while it loads; int8 and fp16 have files of their own.
Compute = Literal["fp32", "bf16", "fp16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]

# Fastest first; the order in which `auto` tries providers, and precisions on each. On GPUs, quantised graphs are slow:
# CUDA has no kernels for them.
PREFERENCE: dict[ProviderName, tuple[Compute, ...]] = {
    "cuda": ("fp16", "fp32"),
    "openvino": ("int8", "bf16", "fp32"),
    "cpu": ("int8", "fp32"),
}

ORT_NAMES: dict[ProviderName, str] = {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

# cudnn_conv_algo_search: HEURISTIC asks cuDNN's heuristics in mode A, EXHAUSTIVE in mode B; neither times anything.
# prefer_nhwc: tensor cores compute convolutions in NHWC. fuse_conv_bias: one kernel less for each convolution.
# arena_extend_strategy: a session runs one batch size, so its memory need not grow by powers of two.
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "prefer_nhwc": "1",
    "fuse_conv_bias": "1",
    "arena_extend_strategy": "kSameAsRequested",
}

# The name of the batch dimension in every ONNX file that `model_export` writes.
BATCH_DIMENSION = "batch"

# Multiply-adds of 8-bit numbers into 32 bits. ARM's are in every core that has `asimddp`.
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


class ProviderUnavailable(Exception):
    """This execution provider cannot be had; the message names what is missing and the remedy."""


class Session(NamedTuple):
    """An ONNX Runtime session that is known to run on `provider`."""

    ort: ort.InferenceSession
    provider: ProviderName
    compute: Compute


def cuda_options(precision: Compute, gpu: int = 0) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider.

    TF32 is what opens the tensor cores, to fp16 too (ONNX Runtime 1.31). It has the mantissa of fp16, so that fp32 must
    do without it.
    """
    return CUDA_OPTIONS | {"device_id": str(gpu), "use_tf32": "0" if precision == "fp32" else "1"}


def open_session(
    model: Path,
    provider: ProviderName,
    precision: Compute = "fp32",
    *,
    threads: int,
    streams: int = 1,
    batch: int | None = None,
    gpu: int = 0,
) -> Session:
    """A session of an ONNX file on one execution provider.

    Args:
        model: the file that `precision` needs.
        threads: CPU cores that the session may use (ignored by CUDA).
        streams: how many threads call it at once; each gets `threads // streams` cores.
        batch: the only batch size that it will run; None for any.
        gpu: its number, for CUDA.

    Raises:
        ProviderUnavailable: the provider, or a library it needs, is not there, or it does not compute in this
            precision, or it does not take the whole graph.
    """
    check_computes(provider, precision)
    require(provider, gpu)
    options = ort.SessionOptions()
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH_DIMENSION, batch)
    # Idle threads that spin would take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = max(1, threads // streams)
    providers: Sequence[tuple[str, dict[str, str]]] = []
    if provider == "cpu":
        providers = [(ORT_NAMES["cpu"], {})]
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if provider == "cuda":
        providers = [(ORT_NAMES["cuda"], cuda_options(precision, gpu))]
    if provider == "openvino":
        if precision == "bf16" and not _has_bf16():
            raise ProviderUnavailable("this CPU has no instructions for bfloat16")
        config: dict[str, object] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            # Pinned threads of two processes would meet on the same cores while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        if precision != "int8":  # in which what is not quantised may be computed as it suits the CPU
            config["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        options.add_provider_for_devices([_openvino_cpu()], {"load_config": json.dumps({"CPU": config})})

    try:
        # Its fallback would hide the true reason: it makes a session on the CPU, or fails to for another reason.
        session = ort.InferenceSession(model, options, providers=providers or None, enable_fallback=0)
    except Exception as error:  # onnxruntime raises classes that share no public base but Exception
        if provider == "cuda" and (fault := cuda.provider_fault()):
            raise ProviderUnavailable(f"{ORT_NAMES[provider]} does not load: {fault}") from error
        raise ProviderUnavailable(f"{ORT_NAMES[provider]} does not run {model}: {error}") from error
    if (got := session.get_providers()[0]) != ORT_NAMES[provider]:
        raise ProviderUnavailable(f"asked for {ORT_NAMES[provider]}, onnxruntime gave {got}")
    return Session(session, provider, precision)


def check_computes(provider: ProviderName, precision: Compute) -> None:
    """Raises ProviderUnavailable where a provider never computes in this precision."""
    if precision not in PREFERENCE[provider]:
        raise ProviderUnavailable(f"{provider} computes in {', '.join(PREFERENCE[provider])}, not in {precision}")


def require(provider: ProviderName, gpu: int = 0) -> None:
    """Raises ProviderUnavailable with the first thing that is missing for this provider."""
    if provider == "cuda":
        _probe_cuda(gpu)
    if provider == "openvino":
        _openvino_cpu()


def unwanted_precision(provider: ProviderName, precision: Compute) -> str | None:
    """Why `auto` passes over a precision that could run."""
    if provider == "cpu" and precision == "int8" and not cpu_flags() & VNNI:
        # Products of uint8 and int8 are added in 16 bits there, which overflow (ONNX Runtime's guide to quantisation).
        return "this CPU has no VNNI instructions: 8-bit sums would be slow and could overflow"
    return None


def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU, as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]  # x86 and ARM
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def hardware(provider: ProviderName, precision: Compute, gpu: int = 0) -> dict[str, str]:
    """What computes, and with which settings of ours: results of measurements hold for this only.

    Raises:
        ProviderUnavailable: there is no such provider here.
    """
    if provider != "cuda":
        return {"processor": processor()}
    found = _probe_cuda(gpu)
    return {
        "processor": f"{found.name}, {found.memory_bytes} bytes, {found.uuid}",
        "driver": f"{cuda.driver_version()}, CUDA {found.cuda}",
        "cudnn": cuda.cudnn_version(),
        "options": json.dumps(cuda_options(precision, gpu), sort_keys=True),
    }


def processor() -> str:
    """The CPU's model name."""
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _has_bf16() -> bool:
    return "BF16" in _openvino_cpu().ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()


@functools.cache
def _openvino_cpu() -> ort.OrtEpDevice:
    """The CPU device of the OpenVINO plug-in. Raises ProviderUnavailable."""
    if find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderUnavailable(
            "the OpenVINO plug-in is not installed: `pip install onnxruntime-ep-openvino` (x86-64 only)"
        )
    _register_openvino()
    for device in ort.get_ep_devices():
        if device.ep_name == ORT_NAMES["openvino"] and device.ep_metadata.get("ov_device") == "CPU":
            return device
    raise ProviderUnavailable("the OpenVINO plug-in finds no CPU that it supports")


@functools.cache
def _register_openvino() -> None:
    """Once in a process: a second time would fail, also where the plug-in shows no device."""
    import onnxruntime_ep_openvino as plugin

    try:
        ort.register_execution_provider_library(ORT_NAMES["openvino"], plugin.get_library_path())
    except Exception as error:  # see open_session
        raise ProviderUnavailable(f"the OpenVINO plug-in does not load: {error}") from error


@functools.cache
def _probe_cuda(gpu: int) -> cuda.Gpu:
    """The GPU. Raises ProviderUnavailable with the first thing that CUDA lacks."""
    if ORT_NAMES["cuda"] not in ort.get_available_providers():
        raise ProviderUnavailable(
            "this onnxruntime is built without CUDA: install the `cuda` extra (onnxruntime-gpu) instead of `cpu`"
        )
    try:
        return cuda.probe(gpu, int(ort.cuda_version.partition(".")[0]))
    except cuda.CudaMissing as error:
        raise ProviderUnavailable(str(error)) from error


def usable_cores() -> int:
    """CPU cores this process may use: its affinity, or the quotas of its control groups (cgroup v2, v1) if lower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min([cores, *(max(1, int(quota)) for quota in _cpu_quotas())])


def _cpu_quotas() -> Iterator[float]:
    """Cores that each control group of this process allows, those above it included."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = Path("/sys/fs/cgroup"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, files = Path("/sys/fs/cgroup/cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = PurePosixPath(path)
        for above in (group, *group.parents):
            # In a container's own namespace the path is that of the host, and the root is the container's.
            with suppress(OSError, ValueError):
                text = " ".join((root / str(above).lstrip("/") / name).read_text() for name in files)
                quota, period = text.split()
                if quota not in ("max", "-1"):
                    yield int(quota) / int(period)
