"""Finds the CPU device of ONNX Runtime's OpenVINO plug-in, or names what is missing."""

from __future__ import annotations

import functools
from importlib.util import find_spec

import onnxruntime as ort

PROVIDER = "OpenVINOExecutionProvider"


class OpenVinoMissing(Exception):
    """OpenVINO cannot be used here. The message names what is missing."""


@functools.cache
def cpu_device() -> ort.OrtEpDevice:
    """The CPU, as the plug-in offers it. Raises OpenVinoMissing."""
    if find_spec("onnxruntime_ep_openvino") is None:
        raise OpenVinoMissing(
            "the OpenVINO plug-in is not installed: `pip install onnxruntime-ep-openvino` (x86-64 only)"
        )
    _register()
    for device in ort.get_ep_devices():
        if device.ep_name == PROVIDER and device.ep_metadata.get("ov_device") == "CPU":
            return device
    raise OpenVinoMissing("the OpenVINO plug-in finds no CPU that it supports")


def supports_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16. Raises OpenVinoMissing."""
    return "BF16" in cpu_device().ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()


@functools.cache
def _register() -> None:
    """Runs once per process: a second registration would fail, even if the plug-in has no device."""
    import onnxruntime_ep_openvino as plugin

    try:
        ort.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except Exception as error:  # onnxruntime raises classes that share no public base but Exception
        raise OpenVinoMissing(f"the OpenVINO plug-in does not load: {error}") from error
