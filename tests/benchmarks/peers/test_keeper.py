"""Trees of real processes: their CPU time and memory, and that no process survives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.peers.keeper import cpu_seconds_below, memory_below
from benchmarks.processes import descendants

# A server. One child burns CPU and ends; another leaves the session and loses its parent.
BURN = "import time\nwhile time.process_time() < 0.3: pass"
SERVER = f"""
import pathlib, subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}])
daemon = "import pathlib, time; pathlib.Path('daemon').touch(); time.sleep(600)"
starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {{daemon!r}}], start_new_session=True)"
subprocess.run([sys.executable, "-c", starter])
pathlib.Path("ready").touch()
time.sleep(600)
"""


@contextmanager
def kept(program: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a Python program below a keeper."""
    root = Path(__file__).parent.parent.parent.parent
    command = [sys.executable, "-m", "benchmarks.peers.keeper", "0.1", sys.executable, "-c", program]
    keeper = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True)
    try:
        yield keeper
    finally:
        keeper.terminate()
        keeper.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # a test that waits in vain ends by pytest's timeout
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with kept(SERVER, tmp_path) as keeper:
        wait_until(lambda: (tmp_path / "ready").exists() and (tmp_path / "daemon").exists())
        yield keeper


def test_the_cpu_time_of_ended_children_counts(server: subprocess.Popen[bytes]) -> None:
    assert cpu_seconds_below(server.pid) >= 0.3


def test_daemons_stay_in_the_tree(server: subprocess.Popen[bytes]) -> None:
    assert len(descendants(server.pid)) == 2  # the server and its daemon


def test_memory_is_that_of_all_processes(server: subprocess.Popen[bytes]) -> None:
    both = memory_below(server.pid)
    each = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in descendants(server.pid)]  # in pages
    assert both.rss == pytest.approx(sum(each) * os.sysconf("SC_PAGE_SIZE") / 1e6, rel=0.05)
    assert 0 < both.pss <= both.rss


def test_nothing_survives_the_keeper(server: subprocess.Popen[bytes]) -> None:
    below = descendants(server.pid)
    server.terminate()
    server.wait()
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


def test_a_server_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    stubborn = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready").touch()
time.sleep(600)
"""
    with kept(stubborn, tmp_path) as keeper:
        wait_until((tmp_path / "ready").exists)
        below = descendants(keeper.pid)
    assert len(below) == 1
    assert not Path(f"/proc/{below[0]}").exists()


def test_a_server_that_ends_by_itself_ends_the_keeper(tmp_path: Path) -> None:
    with kept("", tmp_path) as keeper:
        keeper.wait()
