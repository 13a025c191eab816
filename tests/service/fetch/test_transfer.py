"""Attempts, pauses, and what is asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.fetch import transfer
from service.fetch.source import FetchError, Interrupted
from service.fetch.transfer import download, retried

CONTENT = b"0123456789"


def test_a_transfer_goes_on_where_it_broke(tmp_path: Path) -> None:
    asked: list[int] = []

    def read(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        yield CONTENT[offset : offset + 3]
        if offset < 6:
            raise Interrupted("the line is dead")

    download(read, tmp_path / "file", len(CONTENT), "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert asked == [0, 3, 6, 9]


def test_what_is_complete_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)

    def read(offset: int) -> Iterator[bytes]:
        raise AssertionError(offset)

    download(read, tmp_path / "file", len(CONTENT), "file")
    download(read, tmp_path / "empty", 0, "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_what_is_too_long_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 11)
    download(lambda offset: iter([CONTENT[offset:]]), tmp_path / "file", len(CONTENT), "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_more_than_was_announced_is_not_written(tmp_path: Path) -> None:
    download(lambda offset: iter([CONTENT[offset:], b"more"]), tmp_path / "file", 5, "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[:5]


def test_a_server_that_sends_nothing_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="the server sent 0 of 10 bytes"):
        download(lambda offset: iter([]), tmp_path / "file", len(CONTENT), "file")


def test_attempts_are_bounded_and_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.5)
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)

    def fail() -> None:
        raise Interrupted("no route")

    with pytest.raises(Interrupted):
        retried(fail, "models")
    assert pauses == [0.5, 1, 2, 4, 8]


def test_attempts_are_counted_since_something_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)

    def read(offset: int) -> Iterator[bytes]:
        yield CONTENT[offset : offset + 1]
        if offset + 1 < len(CONTENT):
            raise Interrupted("the line is dead")

    download(read, tmp_path / "file", len(CONTENT), "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_no_attempt_can_mend_is_not_tried_again() -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise FetchError("no such bucket")

    with pytest.raises(FetchError):
        retried(fail, "models")
    assert tried == [1]
