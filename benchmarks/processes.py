"""CPU time, memory and children of running processes, read from Linux's /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # a second, in the unit of CPU times in /proc


def stat(folder: Path) -> list[str]:
    """The `stat` of a process or thread by its folder in /proc, from the third field (the state) on: proc(5).

    Raises:
        OSError: it has ended.
    """
    return (folder / "stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes so far, without their children."""
    return sum(_seconds(Path(f"/proc/{pid}")) for pid in pids)


def thread_seconds(pid: int) -> dict[int, float]:
    """User and system time of every thread of a process so far, by the system's id."""
    return {int(path.name): _seconds(path) for path in Path(f"/proc/{pid}/task").iterdir()}


def thread_differences(before: Mapping[int, float], after: Mapping[int, float]) -> dict[int, float]:
    """CPU-seconds of every thread between two calls of `thread_seconds`; those of new threads count in full."""
    return {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}


def _seconds(folder: Path) -> float:
    user, system = stat(folder)[11:13]
    return (int(user) + int(system)) / TICKS


def kib(file: Path) -> dict[str, int]:
    """The sizes in a file of /proc, in KiB by name: from its lines of the form `Name: 123 kB`.

    Raises:
        OSError: the process has ended.
    """
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0].removesuffix(":"): int(words[1]) for words in lines if words[2:] == ["kB"]}


def resident_mb(pid: int) -> float:
    """Resident memory of a process (RSS), in units of 1000 KiB."""
    return kib(Path(f"/proc/{pid}/status"))["VmRSS"] / 1000


def peak_mb(pid: int) -> float:
    """The most resident memory of a process since its start or `forget_peak`, in units of 1000 KiB."""
    return kib(Path(f"/proc/{pid}/status"))["VmHWM"] / 1000


def forget_peak(pid: int) -> None:
    """From now on the peak is what the process has now: proc(5), `clear_refs`."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def proportional_mb(pids: Iterable[int]) -> float:
    """Memory of several processes (PSS), in units of 1000 KiB. Pages that they share count once."""
    return sum(kib(Path(f"/proc/{pid}/smaps_rollup"))["Pss"] for pid in pids) / 1000


def children(pid: int) -> list[int]:
    """The processes that the main thread of a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """The processes below a process, at any depth."""
    below = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                below[int(stat(entry)[1])].append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        started = below[queue.pop()]
        found += started
        queue += started
    return found
