"""CPU time, memory and children of processes, by those of the test itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.processes import (
    children,
    cpu_seconds,
    descendants,
    forget_peak,
    peak_mb,
    proportional_mb,
    resident_mb,
    thread_differences,
    thread_seconds,
)


def test_cpu_time_is_that_of_the_process_and_of_its_threads() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert cpu_seconds([os.getpid()]) == pytest.approx(time.process_time(), abs=0.1)
    by_thread = thread_seconds(os.getpid())
    assert by_thread[os.getpid()] <= cpu_seconds([os.getpid()]) + tick


def test_new_threads_count_in_full() -> None:
    assert thread_differences({1: 2.0}, {1: 3.0, 2: 0.5}) == {1: 1.0, 2: 0.5}


def test_shared_memory_counts_once() -> None:
    assert 0 < proportional_mb([os.getpid()]) <= resident_mb(os.getpid())


def test_a_peak_is_remembered_until_it_is_forgotten() -> None:
    np.ones(50_000_000, np.uint8)  # freed at once
    reached = peak_mb(os.getpid())
    assert reached > resident_mb(os.getpid()) + 40
    forget_peak(os.getpid())
    assert peak_mb(os.getpid()) < reached - 40


def test_children_are_descendants() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
        assert child.pid in descendants(os.getpid())
        assert not descendants(child.pid)
