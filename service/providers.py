"""Execution providers: which there are, why one cannot be had, and sessions that run on the one that was meant.

ONNX Runtime falls back to its CPU provider silently when a CUDA library is missing, and half-silently for single
nodes. Nothing here is silent: a provider is probed first, the session is told not to fall back, and what it got is
checked. (The numeric proof is `Engine.self_test`.)
"""

from __future__ import annotations

import ctypes.util
import functools
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import onnxruntime as ort

ProviderName = Literal["cuda", "openvino", "cpu"]
ProviderChoice = Literal["auto", "cuda", "openvino", "cpu"]

# What the arithmetic runs in, whatever the file holds: OpenVINO runs an fp32 file in bf16 where the CPU has bf16.
Compute = Literal["fp32", "bf16", "fp16", "int8"]

# Fastest first; the order in which `auto` tries them.
PREFERENCE: tuple[ProviderName, ...] = ("cuda", "openvino", "cpu")

ORT_NAMES: dict[ProviderName, str] = {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


class ProviderUnavailable(Exception):
    """This execution provider cannot be had; the message names what is missing and the remedy."""


class Session(NamedTuple):
    """An ONNX Runtime session that is known to run on `provider`."""

    ort: ort.InferenceSession
    provider: ProviderName
    compute: Compute


def open_session(model: Path, provider: ProviderName, *, threads: int) -> Session:
    """A session of an fp32 ONNX file on one execution provider.

    Args:
        threads: how many cores one inference may use (ignored by CUDA).

    Raises:
        ProviderUnavailable: the provider, or a library it needs, is not there, or it does not take the whole graph.
    """
    options = ort.SessionOptions()
    # Idle threads that spin would take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads
    compute: Compute = "fp32"
    providers: Sequence[tuple[str, dict[str, str]]] = []
    if provider == "cpu":
        providers = [(ORT_NAMES["cpu"], {})]
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if provider == "cuda":
        _probe_cuda()
        # EXHAUSTIVE, the default, would time every cuDNN algorithm again for every batch size. TF32, a default too, has
        # the mantissa of fp16: that is not the fp32 which `compute` says.
        providers = [(ORT_NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"})]
    if provider == "openvino":
        device = _openvino_cpu()
        if "BF16" in device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split():
            compute = "bf16"
        config = {"CPU": {"INFERENCE_NUM_THREADS": threads}}
        options.add_provider_for_devices([device], {"load_config": json.dumps(config)})

    try:
        session = ort.InferenceSession(model, options, providers=providers or None)
    except Exception as error:  # onnxruntime raises classes that share no public base but Exception
        raise ProviderUnavailable(f"{ORT_NAMES[provider]} does not run {model}: {error}") from error
    if (got := session.get_providers()[0]) != ORT_NAMES[provider]:
        raise ProviderUnavailable(f"asked for {ORT_NAMES[provider]}, onnxruntime gave {got}")
    return Session(session, provider, compute)


def candidates(requested: ProviderChoice) -> tuple[ProviderName, ...]:
    """The providers to try, in order."""
    return PREFERENCE if requested == "auto" else (requested,)


def refusal_in_auto(provider: ProviderName) -> str | None:
    """Why `auto` passes over a provider that could run: OpenVINO is measured as the faster one on Intel CPUs only."""
    if provider == "openvino":
        try:
            name = _openvino_cpu().ep_metadata.get("FULL_DEVICE_NAME", "")
        except ProviderUnavailable as error:
            return str(error)
        if "intel" not in name.lower():
            return f"the CPU is no Intel one ({name}); set the provider to openvino to use it all the same"
    return None


@functools.cache
def _openvino_cpu() -> ort.OrtEpDevice:
    """The CPU device of the OpenVINO plug-in, which registers with the process once."""
    if find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderUnavailable(
            "the OpenVINO plug-in is not installed: `pip install onnxruntime-ep-openvino` (x86-64 only)"
        )
    import onnxruntime_ep_openvino as plugin

    name = ORT_NAMES["openvino"]
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # see open_session
            raise ProviderUnavailable(f"the OpenVINO plug-in does not load: {error}") from error
    for device in ort.get_ep_devices():
        if device.ep_name == name and device.ep_metadata.get("ov_device") == "CPU":
            return device
    raise ProviderUnavailable("the OpenVINO plug-in finds no CPU that it supports")


@functools.cache
def _probe_cuda() -> None:
    """Raises ProviderUnavailable with the first thing that CUDA lacks."""
    if ORT_NAMES["cuda"] not in ort.get_available_providers():
        raise ProviderUnavailable(
            "this onnxruntime is built without CUDA: install the `cuda` extra (onnxruntime-gpu) instead of `cpu`"
        )
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg")) and not ctypes.util.find_library("cuda"):
        raise ProviderUnavailable("no NVIDIA driver is visible: in a container, start it with `--gpus all`")
    # Loads CUDA and cuDNN from the nvidia-* wheels; what it cannot find shows up as a refused session.
    ort.preload_dlls()


def usable_cores() -> int:
    """CPU cores this process may use: its affinity, and the quota of its container (cgroup v2 `cpu.max`) if lower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores
