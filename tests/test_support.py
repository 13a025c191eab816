"""The tests' own support: folders that test processes share, and what the fixtures load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.folders import copied, shared_folder
from tests.support.mutations import tried

ROOT = Path(__file__).parent.parent


def build(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("shared")


def test_a_shared_folder_is_built_once_and_its_files_are_read_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    with shared_folder(tmp_path_factory, "once", build) as first:
        pass
    with shared_folder(tmp_path_factory, "once", lambda folder: pytest.fail("built again")) as second:
        assert second == first
    assert (first / "inner" / "file").stat().st_mode & 0o222 == 0


def test_test_runs_can_share_their_folders(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_TEST_FOLDER", str(tmp_path))
    with shared_folder(tmp_path_factory, "of all runs", build) as folder:
        assert folder == tmp_path / "of all runs"


def test_a_copy_can_be_changed(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    with shared_folder(tmp_path_factory, "copied", build) as folder:
        copy = copied(folder, tmp_path / "new" / "copy")
    assert (copy / "inner" / "file").stat().st_mode & 0o200
    assert (copy / "inner" / "file").read_text() == "shared"


def test_a_change_of_a_shared_folder_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    def change() -> None:
        with shared_folder(tmp_path_factory, "changed", build) as folder:
            (folder / "inner" / "more").touch()
            (folder / "inner" / "more").unlink()

    with pytest.raises(AssertionError, match="all tests share: copy it first"):
        change()


def test_loading_the_fixtures_loads_no_engine() -> None:
    program = "import sys, tests.conftest, tests.service.conftest; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "onnxruntime", "model_export"} & set(finished.stdout.split())


def test_properties_are_tried_with_all_examples_in_the_longer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALL_EXAMPLES", raising=False)
    assert tried(30).max_examples == 10
    monkeypatch.setenv("ALL_EXAMPLES", "yes")
    assert tried(30).max_examples == 30
