"""What the hardware decides, and what torchrun does."""

from __future__ import annotations

import pytest
import torch

from model_export.training import machine
from model_export.training.machine import Machine


def test_bfloat16_is_found_by_asking_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native, dtype in ((False, None), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert Machine().autocast_dtype(cpu) == dtype
    assert Machine(precision="fp32").autocast_dtype(cpu) is None


def test_processes_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 9)
    assert Machine().loader_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Machine().loader_workers == 2
    assert Machine(workers=0).loader_workers == 0
