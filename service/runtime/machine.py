"""What this machine has: CPU cores, instruction sets, installed packages, free memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# CPU flags of instructions that multiply 8-bit numbers and add in 32 bits. All ARM cores that have them show `asimddp`.
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def usable_cores() -> int:
    """CPU cores that this process may use: the lower of its affinity and its cgroup quotas (v2 and v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min([cores, *(max(1, int(quota)) for quota in _cpu_quotas())])


def _cpu_quotas() -> Iterator[float]:
    """Cores that each cgroup of this process allows, and each of their parents."""
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
        for ancestor in (group, *group.parents):
            # Some may not exist: a container may see the host's path, but only its own cgroups below the root.
            with suppress(OSError, ValueError):
                text = " ".join((root / str(ancestor).lstrip("/") / name).read_text() for name in files)
                quota, period = text.split()
                if quota not in ("max", "-1"):
                    yield int(quota) / int(period)


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
