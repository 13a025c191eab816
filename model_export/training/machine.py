"""How a run is computed: device, precision, memory layout, loader workers, checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from service.runtime.machine import usable_cores

DeviceChoice = Literal["auto", "cpu", "cuda"]
AutocastPrecision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Machine:
    """How a run is computed. Unlike the recipe, it may change when a run is resumed."""

    device: DeviceChoice = "auto"
    precision: AutocastPrecision = "auto"
    """of convolutions and matrix products, by autocast; auto: bf16 where the hardware has it, else fp32"""
    channels_last: bool = True
    compile: bool = False
    """with torch.compile: a minute at the start, faster steps on a GPU"""
    workers: int | None = None
    """processes that read images; by default the cores less one, at most 16, shared by the training processes here"""
    checkpoint_minutes: float = 10.0
    """between checkpoints; one is also written after every evaluation and when the run is stopped"""
    keep: int = 3
    """how many of the best weights to keep"""
    log_to: tuple[str, ...] = ()
    """names of the trackers that follow the run"""

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """The type of convolutions and matrix products; None for float32."""
        if self.precision == "auto":
            native = (
                torch.cuda.is_bf16_supported(including_emulation=False)
                if device.type == "cuda"
                else has_native_bfloat16()
            )
            return torch.bfloat16 if native else None
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def loader_workers(self) -> int:
        """Image-reading processes of this training process."""
        if self.workers is not None:
            return self.workers
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
        return min(16, max(1, (usable_cores() - 1) // local_processes))


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # "bf16": ARM
