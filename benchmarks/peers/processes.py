"""A server as a tree of processes: what it costs, and ending all of it.

Servers leave their own process group, hand processes to init and forget them. So each is started below a keeper, to
which the kernel gives every orphan of its tree (`PR_SET_CHILD_SUBREAPER`): nothing escapes from being counted or ended.
Linux only.

    python -m benchmarks.peers.processes GRACE COMMAND ...     (the keeper)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Of a whole tree, in MB (10^6 bytes)."""

    pss: float  # pages that several processes share are split among them
    rss: float  # they count in full in each


def descendants(pid: int) -> list[int]:
    """The processes below one, at any depth."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children[queue.pop()]
        found += below
        queue += below
    return found


def cpu_seconds(keeper: int) -> float:
    """User and system time of everything below a keeper so far, ended processes included.

    A process that has ended is in its parent's times of awaited children, and so on up to the keeper, which awaits
    every orphan. What the keeper itself spends is not counted.
    """
    own = _stat(keeper)
    ticks = sum(map(int, own[13:15])) if own else 0
    for pid in descendants(keeper):
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def memory(keeper: int) -> Memory:
    """What the processes below a keeper hold now."""
    pss = rss = 0
    for pid in descendants(keeper):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
        pss += kilobytes["Pss"]
        rss += kilobytes["Rss"]
    return Memory(pss * 1024 / 1e6, rss * 1024 / 1e6)


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the third (the state) on; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def keep(command: list[str], grace: float) -> None:
    """Runs a command; when it ends, or on SIGTERM, ends everything that came of it, after `grace` seconds by force."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a benchmark that dies leaves no servers behind
    server = subprocess.Popen(command)

    def stop(number: int, frame: FrameType | None) -> None:
        server.terminate()
        signal.setitimer(signal.ITIMER_REAL, grace)

    def kill(number: int, frame: FrameType | None) -> None:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # again, for what was born meanwhile

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, kill)
    with contextlib.suppress(ChildProcessError):  # raised when there is no child left, orphans included
        while True:
            pid, _ = os.wait()
            if pid == server.pid:
                signal.setitimer(signal.ITIMER_REAL, grace)


if __name__ == "__main__":
    keep(sys.argv[2:], float(sys.argv[1]))
