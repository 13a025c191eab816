"""Layouts of folders that people have: archives of data sets, and what their systems leave in them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from model_export.datasets.layout import Layout, Parts, find_parts, is_image, only_validates, scan
from model_export.errors import InputError
from tests.model_export.datasets.test_folder import encoded, refusal, tree, write


def relative(parts: Parts, root: Path) -> tuple[str, ...]:
    return tuple("" if path is None else str(path.relative_to(root)) for path in parts)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train/a", "val/a"), (".", "train", "val")),
        (("Train/a", "Valid/a"), (".", "Train", "Valid")),
        (("TRAIN/a", "TEST/a"), (".", "TRAIN", "TEST")),
        (("Training/a", "Testing/a"), (".", "Training", "Testing")),
        (("training_set/a", "test_set/a"), (".", "training_set", "test_set")),
        (("TrainingSet/a", "TestSet/a"), (".", "TrainingSet", "TestSet")),
        (("train2017/a", "val2017/a"), (".", "train2017", "val2017")),
        (("seg_train/seg_train/a", "seg_test/seg_test/a"), (".", "seg_train/seg_train", "seg_test/seg_test")),
        (("archive/train/a", "archive/test/a"), ("archive", "archive/train", "archive/test")),
        (("one/two/train/a", "one/two/test/a"), ("one/two", "one/two/train", "one/two/test")),
        (("train/a", "val/a", "test/a"), (".", "train", "val")),
        (("train/a", "test/a", "annotations/x", "@eaDir/x"), (".", "train", "test")),
        (("PetImages/Cat", "PetImages/Dog"), ("PetImages", "", "")),
        (("bus", "train"), (".", "", "")),  # classes, which hold images
        (("test", "train"), (".", "", "")),
        (("freight_train/x", "bus/y"), (".", "freight_train", "")),
        (("a",), (".", "", "")),
    ],
)
def test_parts(tmp_path: Path, folders: tuple[str, ...], expected: tuple[str, ...]) -> None:
    tree(tmp_path, dict.fromkeys(folders, 1))
    assert relative(find_parts(tmp_path), tmp_path) == expected


def test_two_that_could_be_meant(tmp_path: Path) -> None:
    tree(tmp_path, {"my_train/a": 1, "old_train/a": 1, "val/a": 1})
    message = refusal(find_parts, tmp_path)
    assert "several folders that could be meant by train (my_train, old_train)" in message
    assert "--split TRAIN,VAL" in message
    parts = (".", "my_train", "val")
    assert relative(find_parts(tmp_path, Layout(ignore=("old_*",))), tmp_path) == parts
    assert relative(find_parts(tmp_path, Layout("my_train,val")), tmp_path) == parts
    assert relative(find_parts(tmp_path, Layout("none")), tmp_path) == (".", "", "")


@pytest.mark.parametrize("split", ["train", "train,", ",", "a,a", "a,b,c"])
def test_splits_that_are_none(tmp_path: Path, split: str) -> None:
    assert "give auto, none, or two names: TRAIN,VAL" in refusal(find_parts, tmp_path, Layout(split))


def test_a_split_that_names_no_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "val/a": 1})
    assert "has no folder Val, which --split names: it has train, val" in refusal(
        find_parts, tmp_path, Layout("train,Val")
    )


def test_parts_to_validate_on_only(tmp_path: Path) -> None:
    assert only_validates(tree(tmp_path / "a", {"val/x": 1, "Test/x": 1}))
    assert not only_validates(tree(tmp_path / "b", {"val/x": 1, "cat/x": 1}))


def test_what_systems_leave_is_passed_over(tmp_path: Path) -> None:
    left = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", ".git", "#recycle")
    tree(tmp_path, {"a": 1, "b": 1, "a/@eaDir/000.jpg": 1} | dict.fromkeys(left, 1))
    write(tmp_path, {"Thumbs.db": b"", "a/desktop.ini": b"", "a/._000.jpg": b""})
    found = scan(tmp_path)
    assert found.classes == ("a", "b")
    assert [path.name for path, _ in found.files] == ["000.jpg", "000.jpg"]
    for name in ("@eaDir", "$RECYCLE.BIN", "3 files that are no images", "1 hidden"):
        assert name in found.passed_over


def test_what_is_ignored(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 3, "b": 1, "b_old": 1})
    found = scan(tmp_path, Layout(ignore=("*_old", "002.jpg")))
    assert found.classes == ("a", "b")
    assert [path.name for path, _ in found.files] == ["000.jpg", "001.jpg", "000.jpg"]
    assert "the folders b_old" in found.passed_over


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a", "a.JPEG", "photo.2024"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_are_known_by_their_first_bytes(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(encoded(kind))
    assert is_image(tmp_path / name)


@pytest.mark.parametrize("name", ["notes.txt", "a.gif", "LICENSE", "._a.jpg", "Thumbs.db"])
def test_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GIF89a and more")
    assert not is_image(tmp_path / name)


def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    assert not is_image(tmp_path / "pipe")
    assert not is_image(tmp_path)


def test_names_are_composed(tmp_path: Path) -> None:
    """macOS decomposes names; a folder copied from there is the same class."""
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != decomposed
    tree(tmp_path, {f"train/{composed}": 1, "train/b": 1, f"val/{decomposed}": 1, "val/b": 1})
    assert scan(tmp_path / "train").classes == scan(tmp_path / "val").classes == ("b", composed)
    both = scan(tree(tmp_path / "both", {composed: 2, decomposed: 1, "b": 1}))
    assert both.classes == ("b", composed)
    assert [label for _, label in both.files] == [0, 1, 1, 1]


def test_a_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1})
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(InputError, match="caf\\\\xe9 is not UTF-8, and cannot name a class: rename it"):
        scan(tmp_path)
