"""Execution providers and precisions by name, and the order in which `auto` tries them."""

from __future__ import annotations

from typing import Literal

ProviderName = Literal["cuda", "openvino", "cpu"]
ProviderChoice = Literal["auto", "cuda", "openvino", "cpu"]

# The precision of the arithmetic. bf16 is computed from the fp32 file; int8 and fp16 have files of their own.
Precision = Literal["fp32", "bf16", "fp16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]

# The precision of an ONNX file.
FilePrecision = Literal["fp32", "fp16", "int8"]

# The order in which `auto` tries providers, and precisions on each: fastest first. Quantised graphs are slow on GPUs,
# where CUDA has no kernels for them.
PREFERENCE: dict[ProviderName, tuple[Precision, ...]] = {
    "cuda": ("fp16", "fp32"),
    "openvino": ("int8", "bf16", "fp32"),
    "cpu": ("int8", "fp32"),
}

# The precision of the file that each precision is computed from.
FILES: dict[Precision, FilePrecision] = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}
