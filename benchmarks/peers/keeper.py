"""The keeper: a process above a server's processes, to account for all of them and to end them.

Some servers leave their process group, or hand processes to init. So each server runs below a keeper, to which the
kernel gives every orphan of its tree (`PR_SET_CHILD_SUBREAPER`): no process escapes being counted or ended. Linux only.

    python -m benchmarks.peers.keeper GRACE COMMAND ...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.processes import TICKS, descendants, kib, stat

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Fields of `stat` by their offsets: what a process has used, and what its children had used that it has waited for.
OWN_AND_CHILDREN = slice(11, 15)
CHILDREN = slice(13, 15)


class Memory(NamedTuple):
    """Memory of all processes below a keeper, in MB (10^6 bytes)."""

    pss: float  # a page that several processes share is split among them
    rss: float  # it counts in full for each


def cpu_seconds_below(keeper: int) -> float:
    """User and system time of all processes below a keeper so far, including those that have ended.

    The time of a process that has ended is in the children's time of the process that waited for it, and so on up to
    the keeper, which waits for every orphan. The keeper's own time does not count.
    """
    ticks = 0
    for pid, fields in ((keeper, CHILDREN), *((pid, OWN_AND_CHILDREN) for pid in descendants(keeper))):
        with contextlib.suppress(OSError):  # it has just ended
            ticks += sum(map(int, stat(Path(f"/proc/{pid}"))[fields]))
    return ticks / TICKS


def memory_below(keeper: int) -> Memory:
    """Memory that the processes below a keeper hold now."""
    pss = rss = 0
    for pid in descendants(keeper):
        with contextlib.suppress(OSError):  # it has just ended
            sizes = kib(Path(f"/proc/{pid}/smaps_rollup"))
            pss += sizes["Pss"]
            rss += sizes["Rss"]
    return Memory(pss * 1024 / 1e6, rss * 1024 / 1e6)


def keep(command: list[str], grace: float) -> None:
    """Runs a command. When it ends, or on SIGTERM, ends every process that is left, after `grace` seconds by force."""
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
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # again, for processes started meanwhile

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, kill)
    with contextlib.suppress(ChildProcessError):  # raised once no child is left, orphans included
        while True:
            pid, _ = os.wait()
            if pid == server.pid:
                signal.setitimer(signal.ITIMER_REAL, grace)


if __name__ == "__main__":
    keep(sys.argv[2:], float(sys.argv[1]))
