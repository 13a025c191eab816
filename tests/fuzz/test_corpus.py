"""The list of other projects' test images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.corpus import LIST, main


@pytest.fixture
def folder(tmp_path: Path, photo: bytes) -> Path:
    root = tmp_path / "checkouts"
    (root / "project").mkdir(parents=True)
    (root / "project" / "whole.jpg").write_bytes(photo)
    (root / "project" / "half.JPG").write_bytes(photo[: len(photo) // 2])
    return root


def test_what_is_as_listed_passes(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    assert main([str(folder), "--write", "--list", str(listed)]) == 0
    assert len(listed.read_text().splitlines()) == 2
    assert main([str(folder), "--list", str(listed)]) == 0


def test_another_outcome_fails_and_so_does_a_folder_without_listed_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.txt"
    main([str(folder), "--write", "--list", str(listed)])
    listed.write_text(listed.read_text().replace("truncated-image", "500x375"))
    assert main([str(folder), "--list", str(listed)]) == 1
    assert "half.JPG: truncated-image, it was 500x375" in capsys.readouterr().out
    listed.write_text("")
    assert main([str(folder), "--list", str(listed)]) == 1


def test_the_list_is_whole() -> None:
    lines = [line.split(" ", 2) for line in LIST.read_text().splitlines()]
    assert len(lines) > 500
    assert {path.split("/")[0] for _, _, path in lines} == {"Pillow", "libjpeg-turbo", "libwebp"}
    assert all(len(digest) == 64 for digest, _, _ in lines)
