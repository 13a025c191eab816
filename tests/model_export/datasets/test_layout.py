"""Layouts of folders that people have: archives of data sets, and what their systems leave in them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from model_export.datasets.layout import (
    Layout,
    Parts,
    class_folders,
    differ_in_case,
    exact,
    find_parts,
    is_image,
    only_validates,
    printable,
    scan,
)
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
        (("test_positive", "test_negative"), (".", "", "")),
        (("bullet_train", "test_tube", "bus"), (".", "", "")),
        (("animals/cat", "animals/dog", "vehicles/car", "vehicles/bus"), (".", "", "")),
        (("shop/cat", "zoo/cat"), (".", "", "")),
        (tuple(f"{a}/{b}" for a, below in (("1", "abcde"), ("2", "abfgh")) for b in below), (".", "", "")),
        (("val/a", "val/b", "test/a", "test/b"), (".", "", "val")),
        (("apple/healthy", "apple/rust", "maize/healthy", "maize/blight"), (".", "", "")),
        (("cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor", "owl", "fox", "hen"), (".", "", "")),
        (("cat", "cat/old", "cat/new", "dog", "dog/old", "dog/new"), (".", "", "")),
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


@pytest.mark.parametrize(
    ("parts", "bare"),
    [
        (("test", "train"), "test, train"),  # as Kaggle's
        (("test1", "train"), "test1, train"),
        (("images_test", "images_train"), "images_test, images_train"),
        (("test", "train", "extra"), "test, train"),
        (("test", "train", "train/cat", "train/dog"), "test, train"),
        (("train", "val/cat", "val/dog"), "train"),
        (("train",), "train"),
    ],
)
def test_parts_without_class_folders(tmp_path: Path, parts: tuple[str, ...], bare: str) -> None:
    tree(tmp_path, dict.fromkeys(parts, 2))
    write(tmp_path, {"train_labels.csv": b""})
    message = refusal(find_parts, tmp_path)
    assert f"names of parts of a data set, and images without class folders in {bare}: put one folder per" in message
    assert "which is then split by itself" not in message
    assert relative(find_parts(tmp_path, Layout("none")), tmp_path) == (".", "", "")


def test_a_part_to_validate_on_without_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"train/cat": 1, "train/dog": 1, "test": 2})
    message = refusal(find_parts, tmp_path)
    assert "images without class folders in test: " in message
    assert f"or give {tmp_path}/train, which is then split by itself; or say `--split none`" in message
    tree(tmp_path, {"val/cat": 1, "val/dog": 1})  # what is beside the two parts is passed over
    assert relative(find_parts(tmp_path), tmp_path) == (".", "train", "val")


@pytest.mark.parametrize(
    ("train", "val", "others"),
    [
        ("tr", "va", ()),
        ("trn", "tst", ()),
        ("learn", "check", ()),
        ("treino", "teste", ()),
        ("imagestrain", "imagesval", ()),
        ("fold1", "fold2", ("fold3",)),
        ("tr/tr", "va/va", ()),  # as they were packed
        ("train", "holdout", ()),
        ("zz", "val", ()),
    ],
)
def test_parts_are_known_by_their_structure(tmp_path: Path, train: str, val: str, others: tuple[str, ...]) -> None:
    counts = {train: 3, val: 2} | dict.fromkeys(others, 1)
    tree(tmp_path, {f"{part}/{name}": count for part, count in counts.items() for name in ("cat", "dog")})
    message = refusal(find_parts, tmp_path)
    assert "hold folders of the same names (cat, dog): name the part to train on" in message
    assert f"as in `--split {train.split('/')[0]},{val.split('/')[0]}`; " in message
    assert "say `--split none` if they are classes" in message
    named = find_parts(tmp_path, Layout(f"{train},{val}"))
    assert relative(named, tmp_path) == (".", train, val)
    assert find_parts(tmp_path, Layout("none")) == Parts(tmp_path, None, None)


def test_parts_whose_classes_are_nearly_the_same(tmp_path: Path) -> None:
    tree(tmp_path, {f"{part}/{name}": 1 for part in ("tr", "va") for name in ("cat", "dog")} | {"tr/owl": 1})
    write(tmp_path, {"annotations/boxes/1.xml": b"", "annotations/masks/1.xml": b""})
    assert "since tr, va hold folders of the same names (cat, dog)" in refusal(find_parts, tmp_path)


@pytest.mark.parametrize("split", ["train", "train,", ",", "a,a", "a,b,c", "a,a/", "a, ", "/a,/b"])
def test_splits_that_are_none(tmp_path: Path, split: str) -> None:
    assert "give auto, none, or two names: TRAIN,VAL" in refusal(find_parts, tmp_path, Layout(split))


def test_a_split_that_names_no_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "val/a": 1})
    assert "has no folder Val, which --split names: it has train, val" in refusal(
        find_parts, tmp_path, Layout("train,Val")
    )


@pytest.mark.parametrize("split", ["tr, va", " tr ,va ", "./tr,va/", "tr/,./va"])
def test_names_of_parts_as_they_are_typed(tmp_path: Path, split: str) -> None:
    tree(tmp_path, {"tr/a": 1, "va/a": 1})
    assert relative(find_parts(tmp_path, Layout(split)), tmp_path) == (".", "tr", "va")


@pytest.mark.parametrize("split", [".,va", "tr,tr/a", "tr,again"])
def test_parts_that_share_images(tmp_path: Path, split: str) -> None:
    tree(tmp_path, {"tr/a": 1, "tr/b": 1, "va/a": 1})
    (tmp_path / "again").symlink_to("tr")
    assert "or one lies in the other, and images to validate on would be trained on" in refusal(
        find_parts, tmp_path, Layout(split)
    )


def test_a_class_that_both_parts_share(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "val/a": 1, "val/b": 1})
    (tmp_path / "train" / "b").symlink_to("../val/b")
    assert f"{tmp_path}/train/b and {tmp_path}/val/b are the same folder, or" in refusal(find_parts, tmp_path)


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


@pytest.mark.parametrize(
    "name",
    [
        *("FOUND.000", "found.017", "@Recently-Snapshot", "@sharebin", "@Recycle", "@GMT-2024.01.31-10.00.00"),
        *("$Windows.~BT", "Network Trash Folder", "Temporary Items", ".Spotlight-V100", "~snapshot"),
    ],
)
def test_folders_of_systems(tmp_path: Path, name: str) -> None:
    found = scan(tree(tmp_path, {"a": 1, "b": 1, name: 1, f"a/{name}": 1}))
    assert (found.classes, len(found.files)) == (("a", "b"), 2)
    assert found.passed_over == f"the folders {name}"


def test_classes_called_nearly_like_folders_of_systems(tmp_path: Path) -> None:
    names = ["#hashtag", "$100", "@home", "found", "found.new", "recycled", "snapshot"]
    assert [path.name for path in class_folders(tree(tmp_path, dict.fromkeys(names, 1)))] == names


def test_hidden_folders_with_pictures_are_named(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1, ".NET": 1, "a/.more/deep": 1})
    write(tmp_path, {".git/config": b""})
    assert scan(tmp_path).passed_over == "the folders .NET, .more"


@pytest.mark.parametrize("given", ["owl", "owl/", "./owl", "./owl//", "o*l", "o*l/", "[old]", "cafe\u0301"])
def test_names_to_ignore_as_they_are_typed(tmp_path: Path, given: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1, "[old]": 1, "caf\u00e9": 1})
    layout = Layout(ignore=(given,))
    find_parts(tmp_path, layout)
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
def test_names_to_ignore_that_are_nowhere(tmp_path: Path, given: str, remedy: str, split: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    message = refusal(find_parts, tmp_path, Layout(split, ("00*.jpg", given)))
    assert message == f"--ignore {given} matches no folder and no file in {tmp_path}: {remedy}"


def test_what_is_ignored_may_be_anywhere(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", {"deep": 3})
    root = tree(tmp_path / "pets", {"a": 1, "b": 1})
    (root / "a" / "more").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to("/")  # is not searched
    find_parts(root, Layout(ignore=("002.jpg",)))
    assert "matches no folder" in refusal(find_parts, root, Layout(ignore=("003.jpg",)))


def test_what_is_ignored_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert f"{tmp_path}/no does not exist" in refusal(find_parts, tmp_path / "no", Layout(ignore=("a",)))


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


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg"])
def test_what_is_no_file_is_no_image(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    os.mkfifo(tmp_path / "a" / name)  # opening it would wait for ever
    assert not is_image(tmp_path / "a" / name)
    assert not is_image(tmp_path)
    found = scan(tmp_path)
    assert len(found.files) == 2
    assert found.passed_over == "1 files that are no images (1 pipe or device)"


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "testing")])
def test_parts_of_every_class(tmp_path: Path, names: tuple[str, str]) -> None:
    tree(tmp_path, {f"{name}/{part}": 1 for name in ("cat", "dog") for part in names})
    find_parts(tmp_path)
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


# --- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["owl", "cat/owl"])
def test_a_link_to_nowhere_may_be_a_class(tmp_path: Path, where: str) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / where).symlink_to("/nonexist")
    message = refusal(scan, tmp_path)
    assert message == (
        f"{tmp_path}/{where} is a link to /nonexist, which does not exist or may not be read: mend or "
        "remove it, or leave it out with `--ignore owl`"
    )
    assert len(scan(tmp_path, Layout(ignore=("owl",))).files) == 2


def test_a_link_to_nowhere_may_be_a_part(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "val").symlink_to("/nonexist")
    assert f"{tmp_path}/val is a link to /nonexist" in refusal(find_parts, tmp_path)


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
    assert found.passed_over == (
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
    assert found.passed_over == "links out of a class into the data set itself (cat/round, cat/up)"


def test_links_to_a_class_that_is_ignored(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cat": 1, "dog": 1, "owl": 1})
    (root / "cat" / "more").symlink_to("../dog")
    assert len(scan(root, Layout(ignore=("dog",))).files) == 2


def test_links_to_the_other_part(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    (tmp_path / "train" / "a" / "more").symlink_to("../../val/a")
    found = scan(tmp_path / "train", whole=tmp_path)
    assert len(found.files) == 2
    assert found.passed_over == "links out of a class into the data set itself (a/more)"


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


# --- names ---------------------------------------------------------------------------------------------------------


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
def test_a_class_whose_name_a_terminal_would_obey(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"a": 1, name: 1})
    message = refusal(scan, tmp_path)
    assert "has control characters, and cannot name a class: rename it" in message
    assert message.isprintable()
    assert message.isascii()


@pytest.mark.parametrize("name", [" ", "\u200b", "\u00a0\ufeff"])
def test_a_class_whose_name_is_not_seen(tmp_path: Path, name: str) -> None:
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
    assert differ_in_case(("Cat", "cat", "dog")) == ["Cat", "cat"]
    assert differ_in_case(("cat", "dog")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cat", "cat"),
        ("ice cream", "ice cream"),
        ("caf\u00e9", "caf\u00e9"),
        ("cat ", "'cat '"),
        ("a  b", "'a  b'"),
        ("cat\u200b", "'cat\\u200b'"),
        ("a\u00a0b", "'a\\xa0b'"),
    ],
)
def test_names_exactly(name: str, said: str) -> None:
    assert exact(name) == said


def test_printable_names() -> None:
    assert printable("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert (
        printable("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )
