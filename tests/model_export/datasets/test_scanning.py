"""Classes and images of real folders, with links and odd names."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from model_export.datasets.layout import Layout
from model_export.datasets.scanning import scan
from model_export.datasets.splits import find_splits
from model_export.errors import InputError
from tests.model_export.datasets.trees import refusal, tree, write


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "testing")])
def test_parts_of_every_class(tmp_path: Path, names: tuple[str, str]) -> None:
    tree(tmp_path, {f"{name}/{part}": 1 for name in ("cat", "dog") for part in names})
    find_splits(tmp_path)
    message = refusal(scan, tmp_path)
    parts = sorted(names)
    assert f"{tmp_path}/cat holds parts of a data set ({', '.join(parts)}), which would be merged into one" in message
    assert f"put the parts outermost, as {tmp_path}/{parts[0]}/cat and {tmp_path}/{parts[1]}/cat, or say" in message
    assert len(scan(tmp_path, Layout("none")).files) == 4


def test_parts_deep_in_a_class(tmp_path: Path) -> None:
    tree(tmp_path, {"animals/cat/train": 1, "animals/cat/val": 1, "vehicles/car": 1})
    assert f"{tmp_path}/animals/cat holds parts of a data set" in refusal(scan, tmp_path)


def test_a_data_set_beside_something_else(tmp_path: Path) -> None:
    tree(tmp_path, {f"images/{part}/{name}": 1 for part in ("train", "val") for name in ("cat", "dog")})
    write(tmp_path, {"labels/train/1.txt": b"", "labels/val/1.txt": b""})
    assert f"give {tmp_path}/images, if it is the data set, or" in refusal(scan, tmp_path)


@pytest.mark.parametrize("where", ["owl", "cat/owl"])
def test_a_broken_link_may_be_a_class(tmp_path: Path, where: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / where).symlink_to("/nonexist")
    message = refusal(scan, tmp_path)
    assert message == (
        f"{tmp_path}/{where} is a link to /nonexist, which does not exist or may not be read: mend or "
        "remove it, or leave it out with `--ignore owl`"
    )
    assert len(scan(tmp_path, Layout(ignore=("owl",))).files) == 2


def test_links_out_of_a_class(tmp_path: Path) -> None:
    """Pictures of a dog would become those of a cat."""
    root = tree(tmp_path / "above" / "pets", {"cat": 1, "dog": 1, "dog/deep": 1, ".store/x": 1})
    tree(tmp_path / "elsewhere", {"y": 1})
    for name, target in {
        "up": "..",
        "higher": "../../..",
        "root": str(root),
        "dog": "../dog",
        "deep": "../dog/deep",
        "stored": "../.store/x",
        "far": str(tmp_path / "elsewhere"),
    }.items():
        (root / "cat" / name).symlink_to(target)
    (tmp_path / "elsewhere" / "y" / "back").symlink_to(root / "dog")
    found = scan(root)
    assert [str(path.relative_to(root)) for path, label in found.files if label == 0] == [
        "cat/000.jpg",
        "cat/far/y/000.jpg",
        "cat/stored/000.jpg",
    ]
    assert found.ignored == (
        "the folders .store and links out of a class into the data set itself (cat/deep, cat/dog, cat/higher, "
        "cat/root, cat/up, ...)"
    )


def test_links_out_of_a_class_that_is_linked_itself(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", {"cat": 1, "dog": 1})
    root = tmp_path / "above" / "pets"
    root.mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / name).symlink_to(elsewhere / name)
    (elsewhere / "cat" / "up").symlink_to("..")
    (elsewhere / "cat" / "round").symlink_to(tmp_path / "above")
    found = scan(root)
    assert len(found.files) == 2
    assert found.ignored == "links out of a class into the data set itself (cat/round, cat/up)"


def test_links_to_an_ignored_class(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    (root / "cat" / "more").symlink_to("../dog")
    assert len(scan(root, Layout(ignore=("dog",))).files) == 2


def test_links_to_the_other_part(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    (tmp_path / "train" / "a" / "more").symlink_to("../../val/a")
    found = scan(tmp_path / "train", whole=tmp_path)
    assert len(found.files) == 2
    assert found.ignored == "links out of a class into the data set itself (a/more)"


@pytest.mark.parametrize("target", ["cat", ".", "..", "cat/deep"])
def test_two_classes_of_the_same_images(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path / "pets", {"cat": 1, "dog": 1, "cat/deep": 1})
    (root / "owl").symlink_to(target)
    message = refusal(scan, root)
    assert "share a folder, and its images would have two classes: remove the link owl, or leave it out" in message
    assert scan(root, Layout(ignore=("owl",))).classes == ("cat", "dog")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "a/deep": 1, "b": 1})
    (tmp_path / "a" / "deep").chmod(0)
    assert f"{tmp_path}/a/deep cannot be read (Permission denied)" in refusal(scan, tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a" / "deep" / "er")
    assert f"{tmp_path}/c cannot be read (Permission denied)" in refusal(scan, tmp_path)


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


@pytest.mark.parametrize("name", ["c\nat", "c\rat", "\x1b[31mcat", "cat\x7f", "cat\u2028", "\u202etac", "c\x9bat"])
def test_a_class_name_with_control_characters(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"a": 1, name: 1})
    message = refusal(scan, tmp_path)
    assert "has control characters, and cannot name a class: rename it" in message
    assert message.isprintable()
    assert message.isascii()


@pytest.mark.parametrize("name", [" ", "\u200b", "\u00a0\ufeff"])
def test_an_invisible_class_name(tmp_path: Path, name: str) -> None:
    assert "has no visible characters, and cannot name a class" in refusal(scan, tree(tmp_path, {"a": 1, name: 1}))


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "cat "),
        ("cat", " cat"),
        ("cat", "cat\u200b"),
        ("cat", "\ufeffcat"),
        ("ice cream", "ice  cream"),
        ("ice cream", "ice\u00a0cream"),
        ("\u2764", "\u2764\ufe0f"),
    ],
)
def test_classes_that_look_the_same(tmp_path: Path, names: tuple[str, str]) -> None:
    tree(tmp_path, dict.fromkeys(names, 1))
    message = refusal(scan, tmp_path)
    first, second = sorted(names)
    assert message.startswith(f"the classes {first!r} and {second!r} in {tmp_path} differ only in blanks or invisible")
    (tmp_path / second).rename(tmp_path / "other")
    assert scan(tmp_path).classes == tuple(sorted([first, "other"]))  # the name alone is none the worse


def test_classes_that_differ_in_case(tmp_path: Path) -> None:
    assert scan(tree(tmp_path, {"cat": 1, "Cat": 1, "dog": 1})).classes == ("Cat", "cat", "dog")
