from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from service import failed_images, request_ids
from service.failed_images import FailedImages


def keep(folder: Path | None, *requests: list[tuple[int, bytes]]) -> None:
    """Keeps the images of requests, one after the other."""
    images = FailedImages(folder)

    async def request(number: int, failed: list[tuple[int, bytes]]) -> None:
        request_ids.begin(f"request-{number}")
        images.keep(failed, {"model": "resnet18", "version": 3})
        if images._writing:
            await images._writing

    async def scenario() -> None:
        for number, failed in enumerate(requests):
            await asyncio.create_task(request(number, failed))

    asyncio.run(scenario())


def test_images_are_kept_beside_what_became_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "failed"
    keep(folder, [(0, b"first"), (2, b"third")])
    pictures = sorted(folder.glob("*.image"))
    assert [path.read_bytes() for path in pictures] == [b"first", b"third"]
    assert [path.name.split("-", 1)[1] for path in pictures] == ["request-0-0.image", "request-0-2.image"]
    said = json.loads(pictures[1].with_suffix(".json").read_text())
    assert said == {"request_id": "request-0", "model": "resnet18", "version": 3, "number": 2, "bytes": 5}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_nothing_is_kept_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep(None, [(0, b"first")])
    assert not list(tmp_path.iterdir())
    keep(tmp_path / "failed", [])
    assert not list(tmp_path.iterdir())


def test_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_images, "MOST_IMAGES", 3)
    keep(tmp_path, *([(0, b"%d" % number)] for number in range(5)))
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.image"))] == [b"2", b"3", b"4"]
    assert len(list(tmp_path.iterdir())) == 6


def test_the_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_images, "MOST_BYTES", 100)
    keep(tmp_path, [(0, b"a" * 60)], [(0, b"b" * 60)], [(0, b"c" * 40)], [(0, b"d" * 101)])
    assert [path.read_bytes()[:1] for path in sorted(tmp_path.glob("*.image"))] == [b"b", b"c"]


def test_while_one_request_is_written_others_are_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        images = FailedImages(tmp_path)
        request_ids.begin("first")
        images.keep([(0, b"first")], {})
        request_ids.begin("second")
        images.keep([(0, b"second")], {})
        assert images._writing
        await images._writing

    asyncio.run(scenario())
    assert [path.read_bytes() for path in tmp_path.glob("*.image")] == [b"first"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    keep(tmp_path / "file" / "failed", [(0, b"first")])
    (record,) = caplog.records
    assert record.getMessage().startswith(f"an image that failed could not be kept in {tmp_path}/file/failed: ")
