"""`--ignore`, and what the log says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.datasets.layout import Layout
from model_export.datasets.scanning import scan
from model_export.datasets.splits import find_splits
from tests.model_export.datasets.trees import refusal, tree, write


def test_hidden_folders_with_images_are_named(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1, ".NET": 1, "a/.more/deep": 1})
    write(tmp_path, {".git/config": b""})
    assert scan(tmp_path).ignored == "the folders .NET, .more"


@pytest.mark.parametrize("given", ["owl", "owl/", "./owl", "./owl//", "o*l", "o*l/", "[old]", "cafe\u0301"])
def test_names_as_users_type_them(tmp_path: Path, given: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1, "[old]": 1, "caf\u00e9": 1})
    layout = Layout(ignore=(given,))
    find_splits(tmp_path, layout)
    assert len(scan(tmp_path, layout).classes) == 4


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("owl,dog", "repeat the option for every name, as in `--ignore owl --ignore dog`"),
        ("owl/, snowy owl", "repeat the option for every name, as in `--ignore owl --ignore 'snowy owl'`"),
        ("pets/owl/", "give the name alone, as in `--ignore owl`"),
        ("Owl", "give the name or a pattern of what is there (cat, dog, owl)"),
        ("*_old", "give the name or a pattern of what is there (cat, dog, owl)"),
        ("", "give the name or a pattern of what is there (cat, dog, owl)"),
    ],
)
@pytest.mark.parametrize("split", ["auto", "none", "cat,dog"])
def test_patterns_that_match_nothing(tmp_path: Path, given: str, remedy: str, split: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    message = refusal(find_splits, tmp_path, Layout(split, ("00*.jpg", given)))
    assert message == f"--ignore {given} matches no folder and no file in {tmp_path}: {remedy}"


def test_a_match_may_be_anywhere(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", {"deep": 3})
    root = tree(tmp_path / "pets", {"a": 1, "b": 1})
    (root / "a" / "more").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to("/")  # is not searched
    find_splits(root, Layout(ignore=("002.jpg",)))
    assert "matches no folder" in refusal(find_splits, root, Layout(ignore=("003.jpg",)))


def test_a_missing_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}/no does not exist" in refusal(find_splits, tmp_path / "no", Layout(ignore=("a",)))


def test_ignored_folders_and_files(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 3, "b": 1, "b_old": 1})
    found = scan(tmp_path, Layout(ignore=("*_old", "002.jpg")))
    assert found.classes == ("a", "b")
    assert [path.name for path, _ in found.files] == ["000.jpg", "001.jpg", "000.jpg"]
    assert "the folders b_old" in found.ignored
