"""Cores, instruction sets and packages of machines of several kinds."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from service.runtime import machine
from service.runtime.machine import Memory, cpu_flags, nearest_memory_limit, processor, usable_cores, versions

pytestmark = pytest.mark.machine

V2 = {"/proc/self/cgroup": "0::/\n"}
SYSTEMD = {"/proc/self/cgroup": "0::/system.slice/resnet.service\n"}
V1 = {"/proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"}
CGROUP_ROOT = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {f"{CGROUP_ROOT}/cpu.max": "max 100000\n"}, 8),
        (V2 | {f"{CGROUP_ROOT}/cpu.max": "250000 100000\n"}, 2),
        (V2 | {f"{CGROUP_ROOT}/cpu.max": "50000 100000\n"}, 1),
        (V2 | {f"{CGROUP_ROOT}/cpu.max": "1600000 100000\n"}, 8),
        (V2 | {f"{CGROUP_ROOT}/cpu.max": "nonsense"}, 8),
        (SYSTEMD | {f"{CGROUP_ROOT}/system.slice/resnet.service/cpu.max": "300000 100000\n"}, 3),
        (SYSTEMD | {f"{CGROUP_ROOT}/system.slice/cpu.max": "400000 100000\n"}, 4),
        (
            SYSTEMD
            | {
                f"{CGROUP_ROOT}/system.slice/resnet.service/cpu.max": "max 100000\n",
                f"{CGROUP_ROOT}/system.slice/cpu.max": "200000 100000\n",
            },
            2,
        ),
        (V1, 8),
        (
            V1
            | {f"{CGROUP_ROOT}/cpu/cpu.cfs_quota_us": "150000\n", f"{CGROUP_ROOT}/cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            V1
            | {
                f"{CGROUP_ROOT}/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
                f"{CGROUP_ROOT}/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (V1 | {f"{CGROUP_ROOT}/cpu/cpu.cfs_quota_us": "-1\n", f"{CGROUP_ROOT}/cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_usable_cores_under_cgroup_quotas(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    only(monkeypatch, files)
    assert usable_cores() == cores


GIB = 2**30
MEMORY = {"/proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 0 kB\nMemAvailable: {12 * GIB // 1024} kB\n"}


def memory_files(folder: str, used: str, limit: str, stat: str, files: tuple[str, str]) -> dict[str, str]:
    """A control group's files of memory; `files` are the names of those with the bytes in use and the limit."""
    texts = {files[0]: used, files[1]: limit, "memory.stat": stat}
    return {f"{CGROUP_ROOT}/{folder}{name}": text for name, text in texts.items()}


NAMES_V1 = ("memory.usage_in_bytes", "memory.limit_in_bytes")
NAMES_V2 = ("memory.current", "memory.max")


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, None),
        (MEMORY, Memory(4 * GIB, 16 * GIB)),
        (V2 | MEMORY | memory_files("", f"{GIB}", "max\n", "", NAMES_V2), Memory(4 * GIB, 16 * GIB)),
        (
            V2 | MEMORY | memory_files("", f"{3 * GIB}\n", f"{4 * GIB}\n", f"anon 5\ninactive_file {GIB}\n", NAMES_V2),
            Memory(2 * GIB, 4 * GIB),
        ),
        (  # a wide limit on a machine that other programs have filled
            V2 | MEMORY | memory_files("", f"{GIB}", f"{15 * GIB}", "", NAMES_V2),
            Memory(4 * GIB, 16 * GIB),
        ),
        (
            V1 | MEMORY | memory_files("memory/docker/abc/", f"{2 * GIB}", f"{2**63 - 4096}", "", NAMES_V1),
            Memory(4 * GIB, 16 * GIB),
        ),
        (
            V1
            | MEMORY
            | memory_files(
                *("memory/docker/abc/", f"{2 * GIB}", f"{3 * GIB}", f"inactive_file 1\ntotal_inactive_file {GIB}"),
                files=NAMES_V1,
            ),
            Memory(GIB, 3 * GIB),
        ),
    ],
)
def test_the_memory_limit_that_would_be_met_first(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], memory: Memory | None
) -> None:
    only(monkeypatch, files)
    assert nearest_memory_limit() == memory


def only(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """No other files can be read than these."""

    def read_text(self: Path) -> str:
        if str(self) not in files:
            raise FileNotFoundError(str(self))
        return files[str(self)]

    monkeypatch.setattr(machine.Path, "read_text", read_text)


X86 = "processor\t: 0\nmodel name\t: Some CPU @ 1GHz\nflags\t\t: fpu avx2 avx_vnni\n\nprocessor\t: 1\nflags\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "flags"),
    [(X86, {"fpu", "avx2", "avx_vnni"}), (ARM, {"fp", "asimd", "asimddp"}), ("processor: 0\n", set()), ("", set())],
)
def test_cpu_flags_by_their_linux_names(monkeypatch: pytest.MonkeyPatch, text: str, flags: set[str]) -> None:
    monkeypatch.setattr(machine.Path, "read_text", lambda self: text)
    assert cpu_flags() == flags


def unreadable(self: Path) -> str:
    raise FileNotFoundError


def test_an_unreadable_cpuinfo_means_no_flags_but_still_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Path, "read_text", unreadable)
    assert cpu_flags() == frozenset()
    assert processor()


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor().strip()
    monkeypatch.setattr(machine.Path, "read_text", lambda self: X86)
    assert processor() == "Some CPU @ 1GHz"
    monkeypatch.setattr(machine.Path, "read_text", lambda self: ARM)
    assert processor()


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert versions(["numpy", "no-such-package"]) == {"numpy": importlib.metadata.version("numpy")}
