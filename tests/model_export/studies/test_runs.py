"""Trainings of a study, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.studies.runs import data_of, train_all
from model_export.studies.study import cifar_net
from tests.model_export.conftest import TINY, Trained

pytestmark = pytest.mark.e2e


def test_finished_runs_are_not_repeated(trained: Trained) -> None:
    panels, seed, folder, results = trained
    assert [row.step for row in results[""]["plain-8"]] == [2]
    before = (folder / "plain-8" / "report.html").stat().st_mtime_ns
    assert train_all(panels, TINY, folder, seed=seed) == results
    assert (folder / "plain-8" / "report.html").stat().st_mtime_ns == before


def test_the_data_is_that_of_the_trained_networks(trained: Trained) -> None:
    classes, images = data_of(trained.panels, trained.folder)
    assert classes == ("circle", "cross")
    assert images.images == 24


def test_a_folder_with_another_study_is_refused(trained: Trained) -> None:
    panels, seed, folder, _ = trained
    with pytest.raises(InputError, match="holds runs of another study"):
        train_all(panels, TINY, folder, seed=seed + 1)


def test_a_failed_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ResNet-9 ended early \(error: .*6n\+2.*log\.txt"):
        train_all({"": {"ResNet-9": cifar_net(9)}}, TINY, tmp_path, seed=0)
