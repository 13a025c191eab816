"""`study`: the table as it is, a comparison at a tiny scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.cli import study as study_command
from model_export.studies import network_table as table_module
from service.runtime.model_card import Architecture
from tests.model_export.conftest import TINY, Trained
from tests.support.folders import copied


def test_the_table_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fifties = [Architecture(depth=50, variant="v1"), Architecture(depth=50)]
    monkeypatch.setattr(table_module, "_architectures", lambda: fifties)  # the whole takes nine seconds
    assert main(["study", "table", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == printed
    assert "25,557,032" in printed
    assert "3.858 G" in printed


def test_the_table_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "table", "--paper-scale", "--seed", "1", "--out", str(tmp_path / "t")]) == 1
    assert "--paper-scale and --seed only apply to the comparisons, which train networks" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_a_comparison_leaves_a_page_a_picture_and_its_runs(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds one of its four runs finished."""
    monkeypatch.setattr(study_command, "SMALL", TINY)
    folder = copied(trained.folder, tmp_path / "study")
    assert main(["study", "degradation", "--out", str(folder), "--seed", str(trained.seed)]) == 0
    page = (folder / "degradation.md").read_text()
    assert capsys.readouterr().out == page
    for part in (
        "(degradation.png)",
        "| plain-14 |",
        "| ResNet-14 |",
        f"- seed: {trained.seed}\n",
        "--epochs 1 ",
        "on 24 images of ",
    ):
        assert part in page
    assert {path.name for path in folder.iterdir()} == {
        "degradation.md", "degradation.png", "settings.json", "plain-8", "plain-14", "ResNet-8", "ResNet-14"
    }  # fmt: skip
