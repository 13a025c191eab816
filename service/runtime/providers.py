"""Execution providers: probes them, names what is missing, opens sessions on exactly the given one.

ONNX Runtime falls back to its CPU provider silently when a CUDA library is missing, and almost silently for single
nodes. Here nothing falls back: a provider is probed first, the session is forbidden to fall back, and its provider is
checked afterwards. (`self_test` adds the numeric proof.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

from service.runtime import cuda, openvino
from service.runtime.choices import PREFERENCE, Precision, ProviderName
from service.runtime.graph import BATCH_DIMENSION
from service.runtime.machine import VNNI, cpu_flags, processor

ORT_NAMES: dict[ProviderName, str] = {
    "cuda": cuda.PROVIDER,
    "openvino": openvino.PROVIDER,
    "cpu": "CPUExecutionProvider",
}

# cudnn_conv_algo_search: HEURISTIC asks cuDNN's heuristics in mode A, EXHAUSTIVE in mode B; neither times anything.
# prefer_nhwc: tensor cores compute convolutions in NHWC. fuse_conv_bias: saves one kernel per convolution.
# arena_extend_strategy: a session runs a single batch size, so its memory need not grow by powers of two.
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "prefer_nhwc": "1",
    "fuse_conv_bias": "1",
    "arena_extend_strategy": "kSameAsRequested",
}


NO_BF16 = "this CPU has no instructions for bfloat16"
ORT_ERROR = 3  # a severity of ONNX Runtime's log


class ProviderUnavailable(Exception):
    """An execution provider is unavailable here; the message names what is missing and the remedy."""


class Session(NamedTuple):
    """An ONNX Runtime session that was checked to run on `provider`."""

    ort: ort.InferenceSession
    provider: ProviderName
    precision: Precision


def open_session(
    model: Path,
    provider: ProviderName,
    precision: Precision = "fp32",
    *,
    threads: int,
    lanes: int = 1,
    batch: int | None = None,
    gpu: int = 0,
) -> Session:
    """A session of an ONNX file on one execution provider.

    Args:
        model: the ONNX file of this precision (`choices.FILES`).
        threads: CPU cores that the session may use (ignored by CUDA).
        lanes: how many threads call the session at once; each gets `threads // lanes` cores.
        batch: the only batch size of the session; None for any.
        gpu: the number of the GPU, for CUDA.

    Raises:
        ProviderUnavailable: the provider or one of its libraries is missing, or it does not support this precision or
            some node of the graph.
    """
    check_computes(provider, precision)
    require(provider, gpu)
    if provider == "cuda":
        cuda.wait_asleep(gpu)
        # Without this, cuBLAS takes 32 MiB on a Hopper GPU for every session and thread. Only the last layer uses it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    if provider == "openvino" and precision == "bf16" and not openvino.supports_bf16():
        raise ProviderUnavailable(NO_BF16)
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, threads // lanes)
    # Spinning idle threads would take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH_DIMENSION, batch)
    if provider == "cuda":
        # A pattern reserves the memory of a whole run again, beside what the first run has taken.
        options.enable_mem_pattern = False
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if provider == "openvino":
        options.add_provider_for_devices([openvino.cpu_device()], openvino_options(precision, threads, lanes))
        providers = None  # a plug-in is named by its device instead
    else:
        providers = [(ORT_NAMES[provider], cuda_options(precision, gpu) if provider == "cuda" else {})]
    return Session(_create(model, provider, options, providers), provider, precision)


def cuda_options(precision: Precision, gpu: int = 0) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider.

    ONNX Runtime 1.31 uses the tensor cores only with TF32 on, for fp16 too. TF32 has the mantissa of fp16, so fp32
    turns it off.
    """
    return CUDA_OPTIONS | {"device_id": str(gpu), "use_tf32": "0" if precision == "fp32" else "1"}


def openvino_options(precision: Precision, threads: int, lanes: int) -> dict[str, str]:
    """The options of ONNX Runtime's OpenVINO plug-in. The arguments are those of `open_session`."""
    config: dict[str, object] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": lanes,
        # Pinned threads of two processes could share some cores while others are idle.
        "ENABLE_CPU_PINNING": False,
    }
    if precision != "int8":  # OpenVINO chooses the precision of the layers that an int8 file leaves in float
        config["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
    return {"load_config": json.dumps({"CPU": config})}


def _create(
    model: Path,
    provider: ProviderName,
    options: ort.SessionOptions,
    providers: Sequence[tuple[str, Mapping[str, str]]] | None,
) -> ort.InferenceSession:
    """Creates the session and checks its provider. Raises ProviderUnavailable."""
    if provider == "cuda":
        # ONNX Runtime 1.31 warns for every session that CUDA is not a plug-in, which it need not be.
        ort.set_default_logger_severity(ORT_ERROR)
    try:
        # onnxruntime's own fallback would hide the reason: it opens a CPU session, or fails for another reason.
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises classes that share no public base but Exception
        if provider == "cuda" and (fault := cuda.provider_fault()):
            raise ProviderUnavailable(f"{ORT_NAMES[provider]} does not load: {fault}") from error
        raise ProviderUnavailable(f"{ORT_NAMES[provider]} does not run {model}: {error}") from error
    if (opened := session.get_providers()[0]) != ORT_NAMES[provider]:
        raise ProviderUnavailable(f"asked for {ORT_NAMES[provider]}, but onnxruntime opened {opened}")
    return session


def check_graph(session: ort.InferenceSession, shape: tuple[int, int, int], classes: int) -> None:
    """Raises ProviderUnavailable unless the graph takes images of this shape and returns logits of `classes`."""
    logits_of = {node.name: node for node in session.get_outputs()}
    found = [node.shape[1:] for node in (session.get_inputs()[0], logits_of["logits"])]
    if found != [list(shape), [classes]]:
        image, logits, expected = ("x".join(map(str, sides)) for sides in (*found, shape))
        raise ProviderUnavailable(
            f"the file takes images of {image} and returns {logits} logits; its card says {expected} and {classes}: "
            "publish the model again"
        )


def check_computes(provider: ProviderName, precision: Precision) -> None:
    """Raises ProviderUnavailable if a provider does not support this precision on any machine."""
    if precision not in PREFERENCE[provider]:
        raise ProviderUnavailable(f"{provider} computes in {', '.join(PREFERENCE[provider])}, not in {precision}")


def require(provider: ProviderName, gpu: int = 0) -> None:
    """Raises ProviderUnavailable, naming the first thing that this provider lacks."""
    try:
        if provider == "cuda":
            cuda.probe(gpu)
        if provider == "openvino":
            openvino.cpu_device()
    except (cuda.CudaMissing, openvino.OpenVinoMissing) as error:
        raise ProviderUnavailable(str(error)) from error


def unwanted_precision(provider: ProviderName, precision: Precision) -> str | None:
    """Why `auto` skips a precision, whatever was measured of it.

    Raises:
        ProviderUnavailable: the provider is missing.
    """
    if provider == "openvino" and precision == "bf16":
        require(provider)
        if not openvino.supports_bf16():
            return NO_BF16
    if provider == "cpu" and precision == "int8" and not cpu_flags() & VNNI:
        # There, products of uint8 and int8 are summed in 16 bits, which overflow (ONNX Runtime's quantisation guide).
        return "this CPU has no VNNI instructions: 8-bit sums would be slow and could overflow"
    return None


def hardware(provider: ProviderName, precision: Precision, gpu: int = 0) -> dict[str, str]:
    """CPU or GPU model name, driver and provider options: part of the tuning cache key. Raises ProviderUnavailable."""
    if provider != "cuda":
        return {"processor": processor()}
    require("cuda", gpu)
    device = cuda.probe(gpu)
    return {
        "processor": f"{device.name}, {device.memory_bytes} bytes, {device.uuid}",
        "driver": f"{cuda.driver_version()}, CUDA {device.cuda}",
        "cudnn": cuda.cudnn_version(),
        "options": json.dumps(cuda_options(precision, gpu), sort_keys=True),
    }
