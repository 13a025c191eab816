"""What this machine has: CPU cores, instruction sets, installed packages, free memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from service.runtime.control_groups import read_each

# CPU flags of instructions that multiply 8-bit numbers and add in 32 bits. All ARM cores that have them show `asimddp`.
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def usable_cores() -> int:
    """CPU cores that this process may use: the lower of its affinity and its cgroup quotas (v2 and v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min([cores, *(max(1, int(quota)) for quota in _cpu_quotas())])


def _cpu_quotas() -> Iterator[float]:
    """Cores that each cgroup of this process allows, and each of their parents."""
    for texts in read_each("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(ValueError):
            quota, period = " ".join(texts).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)


class Memory(NamedTuple):
    """Bytes in use, without what the system can drop (files that it keeps in memory), and their limit."""

    used: int
    limit: int


def nearest_memory_limit() -> Memory | None:
    """The memory limit that this process would meet first: that of a control group, or the machine's own memory.

    None if the system tells neither.
    """
    found = [*_machine_memory(), *_memory_limits()]
    return min(found, key=lambda memory: memory.limit - memory.used, default=None)


def _machine_memory() -> Iterator[Memory]:
    with suppress(OSError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines}
        yield Memory(1024 * (kib["MemTotal:"] - kib["MemAvailable:"]), 1024 * kib["MemTotal:"])


def _memory_limits() -> Iterator[Memory]:
    v2 = ("memory.current", "memory.max", "memory.stat")
    v1 = ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.stat")
    for used, limit, stat in read_each("memory", v2, v1):
        counts = dict(line.split() for line in stat.splitlines())
        # v1 counts the groups below apart, as `total_`; v2 always includes them
        files = counts.get("total_inactive_file", counts.get("inactive_file", "0"))
        with suppress(ValueError):  # no limit: v2 says "max", v1 nearly 2^63
            yield Memory(max(0, int(used) - int(files)), int(limit))


def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets, by their Linux names; empty if they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]  # x86 and ARM
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def processor() -> str:
    """The model name of the CPU."""
    try:
        match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of Python packages, by name; packages that are not installed are left out."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def return_freed_memory() -> None:
    """Returns freed heap memory to the system. glibc would keep 100 MB or more after loading a ResNet-50."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
