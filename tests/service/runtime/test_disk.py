"""Files are whole or absent."""

import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from service.runtime.disk import locked, new_folder, replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"two")
        assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_folders_that_cannot_be_flushed_are_tolerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As on CIFS, on some FUSE file systems, and on Windows."""
    caplog.set_level("DEBUG", "service")  # commands that ran before have set a level of its own

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert f"{tmp_path} cannot be flushed" in caplog.text


def test_disk_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "a", b"one")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")

    def fail() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "outer" / "new") as folder:
        (folder / "file").write_text("content")
        assert not (tmp_path / "outer" / "new").exists()
    assert (tmp_path / "outer" / "new" / "file").read_text() == "content"
    assert (tmp_path / "outer" / "new").stat().st_mode & 0o777 == 0o755


def test_a_new_folder_is_on_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "service.runtime.disk.flush", lambda path: flushed.append((path.name, (tmp_path / "new").exists()))
    )
    with new_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
    assert sorted(flushed[:-1]) == sorted([("file", False), ("inner", False), (folder.name, False)])
    assert flushed[-1] == (tmp_path.name, True)


def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail_within() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("content")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_anew_while_another_process_waited_is_locked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    waits, inside, leave = threading.Event(), threading.Event(), threading.Event()
    flock = fcntl.flock

    def lock(descriptor: int, how: int) -> None:
        if threading.current_thread() is other:
            waits.set()
        flock(descriptor, how)

    def hold() -> None:
        with locked(folder):
            inside.set()
            leave.wait(60)

    monkeypatch.setattr(fcntl, "flock", lock)
    other = threading.Thread(target=hold)
    with locked(folder):
        other.start()
        assert waits.wait(60)
        shutil.rmtree(folder)
        folder.mkdir()
    assert inside.wait(60)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        leave.set()
        other.join()
        os.close(descriptor)


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nowhere"):
        pass
