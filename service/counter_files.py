"""Counters that all processes of the service share: files in a folder, by which prometheus_client adds them up.

prometheus_client decides when it is imported whether to count for one process or for several. Nothing imports it before
the first `Metrics`: `count_alone` and `count_together` come first.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

# prometheus_client's name for the folder in which several processes count; it heeds it in lower case, too.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


# Where each process counts, by prometheus_client's names for the kinds of metrics, and the room that is reserved for
# each: for 25 models, with 500 classes in all, and 300 further series of a kind. The files are mapped to memory, and
# to write where a full disk has no room for them would end the process. Beyond that room a file doubles, unreserved.
RESERVED = {"counter": 2**18, "histogram": 2**19, "gauge_livesum": 2**16, "gauge_max": 2**16}
SUMMED = ("counter", "histogram")  # kinds that outlive their process, in one file for all that have ended


class NoFolder(Exception):
    """There is no folder for temporary files, or no room in it; the message names the remedy."""


def count_alone() -> None:
    """This process counts for itself, whatever the environment of its caller says."""
    for name in (FOLDER, FOLDER.lower()):
        os.environ.pop(name, None)


@contextmanager
def count_together() -> Iterator[None]:
    """This process and those that it starts count together. Raises NoFolder."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="resnet-service-")
    except OSError as error:
        raise NoFolder(f"there is no folder for the workers' counters: {error}; set TMPDIR") from error
    with temporary as folder:
        os.environ[FOLDER] = folder
        reserve_counters()
        yield


def reserve_counters() -> None:
    """Takes the room on the disk for all that this process will count; nothing if it counts alone. Raises NoFolder."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    try:
        for kind, size in RESERVED.items():
            with _file(folder, kind, os.getpid()).open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        for kind in RESERVED:  # an empty file is not one of counters
            _file(folder, kind, os.getpid()).unlink(missing_ok=True)
        needed = sum(RESERVED.values())
        raise NoFolder(f"{folder} has no room for {needed} bytes of counters: {error}; set TMPDIR") from error


_ended: set[int] = set()  # processes whose files are still there


def forget_process(pid: int) -> None:
    """Drops the gauges of a process that has ended, and adds what it counted to the sums of those that ended before it.

    While `Metrics.text` reads the files, or if the disk has no room for the new sums, they stay until another ends.
    """
    from prometheus_client.multiprocess import mark_process_dead

    folder = os.environ[FOLDER]
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    _ended.add(pid)
    try:
        with locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for kind in SUMMED:
                _add_up(folder, kind)
            for ended in _ended:
                exemplars_file(folder, ended).unlink(missing_ok=True)
                for kind in RESERVED:
                    _file(folder, kind, ended).unlink(missing_ok=True)
            _ended.clear()
    except BlockingIOError:
        pass
    except OSError as error:  # also if something has cleaned away the folder
        log.warning("the counters of workers that have ended stay in their files: %s", error)


def _add_up(folder: str, kind: str) -> None:
    """Moves what processes have counted that have ended into one file. Raises OSError; nothing is lost then."""
    from prometheus_client.mmap_dict import MmapedDict

    total = _file(folder, kind, "ended")
    files = [file for file in (total, *(_file(folder, kind, pid) for pid in _ended)) if file.exists()]
    sums: dict[str, float] = defaultdict(float)
    for file in files:
        for key, value, *_ in MmapedDict.read_all_values_from_file(file):  # type: ignore[no-untyped-call]
            sums[key] += value
    new = total.with_suffix(".new")
    try:
        with new.open("wb") as empty:  # with room for all, so that it need not grow
            os.posix_fallocate(empty.fileno(), 0, 8 + sum(len(key.encode()) + 32 for key in sums))
    except OSError:
        new.unlink(missing_ok=True)
        raise
    written = MmapedDict(new)  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    new.replace(total)
    for file in files:
        if file != total:
            file.unlink()


def exemplars_file(folder: str, process: int) -> Path:
    """Where a process keeps its exemplars: prometheus_client reads `.db` files only."""
    return Path(folder) / f"exemplars_{process}.json"


def _file(folder: str, kind: str, process: int | str) -> Path:
    return Path(folder) / f"{kind}_{process}.db"


@contextmanager
def locked(folder: str, how: int) -> Iterator[None]:
    """Holds a lock on the files of all processes: they are read as they were before a process was forgotten, or after.

    Raises:
        BlockingIOError: another process holds it, and `how` says not to wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # a file of its own would need room on the disk
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
