"""Parts of data sets, laid out as people's archives are."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.datasets.layout import Layout
from model_export.datasets.splits import Splits, find_splits, holds_only_held_out
from tests.model_export.datasets.trees import refusal, tree, write


def relative(parts: Splits, root: Path) -> tuple[str, ...]:
    return tuple("" if path is None else str(path.relative_to(root)) for path in parts[: 4 if parts.test else 3])


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train/a", "val/a"), (".", "train", "val")),
        (("Train/a", "Valid/a"), (".", "Train", "Valid")),
        (("TRAIN/a", "TEST/a"), (".", "TRAIN", "", "TEST")),
        (("Training/a", "Testing/a"), (".", "Training", "", "Testing")),
        (("training_set/a", "test_set/a"), (".", "training_set", "", "test_set")),
        (("TrainingSet/a", "TestSet/a"), (".", "TrainingSet", "", "TestSet")),
        (("train2017/a", "val2017/a"), (".", "train2017", "val2017")),
        (("seg_train/seg_train/a", "seg_test/seg_test/a"), (".", "seg_train/seg_train", "", "seg_test/seg_test")),
        (("archive/train/a", "archive/test/a"), ("archive", "archive/train", "", "archive/test")),
        (("one/two/train/a", "one/two/test/a"), ("one/two", "one/two/train", "", "one/two/test")),
        (("train/a", "val/a", "test/a"), (".", "train", "val", "test")),
        (("train/a", "val/a", "test/unknown"), (".", "train", "val")),  # unlabelled,
        (("train/a", "test/a", "annotations/x", "@eaDir/x"), (".", "train", "", "test")),
        (("PetImages/Cat", "PetImages/Dog"), ("PetImages", "", "")),
        (("bus", "train"), (".", "", "")),  # classes, which hold images
        (("test_positive", "test_negative"), (".", "", "")),
        (("bullet_train", "test_tube", "bus"), (".", "", "")),
        (("animals/cat", "animals/dog", "vehicles/car", "vehicles/bus"), (".", "", "")),
        (("shop/cat", "zoo/cat"), (".", "", "")),
        (tuple(f"{a}/{b}" for a, below in (("1", "abcde"), ("2", "abfgh")) for b in below), (".", "", "")),
        (("val/a", "val/b", "test/a", "test/b"), (".", "", "val", "test")),
        (("apple/healthy", "apple/rust", "maize/healthy", "maize/blight"), (".", "", "")),
        (("cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor", "owl", "fox", "hen"), (".", "", "")),
        (("cat", "cat/old", "cat/new", "dog", "dog/old", "dog/new"), (".", "", "")),
        (("freight_train/x", "bus/y"), (".", "freight_train", "")),
        (("a",), (".", "", "")),
    ],
)
def test_parts(tmp_path: Path, folders: tuple[str, ...], expected: tuple[str, ...]) -> None:
    tree(tmp_path, dict.fromkeys(folders, 1))
    assert relative(find_splits(tmp_path), tmp_path) == expected


def test_two_candidates_for_a_part(tmp_path: Path) -> None:
    tree(tmp_path, {"my_train/a": 1, "old_train/a": 1, "val/a": 1})
    message = refusal(find_splits, tmp_path)
    assert "several folders that could be the part train (my_train, old_train)" in message
    assert "--split TRAIN,VAL" in message
    parts = (".", "my_train", "val")
    assert relative(find_splits(tmp_path, Layout(ignore=("old_*",))), tmp_path) == parts
    assert relative(find_splits(tmp_path, Layout("my_train,val")), tmp_path) == parts
    assert relative(find_splits(tmp_path, Layout("none")), tmp_path) == (".", "", "")


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
    message = refusal(find_splits, tmp_path)
    assert f"named like parts of a data set, and images without class folders in {bare}: put one folder per" in message
    assert "to have it split" not in message
    assert relative(find_splits(tmp_path, Layout("none")), tmp_path) == (".", "", "")


def test_a_validation_part_without_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"train/cat": 1, "train/dog": 1, "test": 2})
    message = refusal(find_splits, tmp_path)
    assert "images without class folders in test: " in message
    assert f"or give {tmp_path}/train, to have it split; or say `--split none`" in message
    tree(tmp_path, {"val/cat": 1, "val/dog": 1})  # what is beside the two parts is passed over
    assert relative(find_splits(tmp_path), tmp_path) == (".", "train", "val")


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
def test_parts_are_recognised_by_their_structure(tmp_path: Path, train: str, val: str, others: tuple[str, ...]) -> None:
    counts = {train: 3, val: 2} | dict.fromkeys(others, 1)
    tree(tmp_path, {f"{part}/{name}": count for part, count in counts.items() for name in ("cat", "dog")})
    message = refusal(find_splits, tmp_path)
    assert "hold folders of the same names (cat, dog), as parts do. If" in message
    assert f"as in `--split {train.split('/')[0]},{val.split('/')[0]}`; or give one of them" in message
    assert "are classes, say `--split none`: " in message
    named = find_splits(tmp_path, Layout(f"{train},{val}"))
    assert relative(named, tmp_path) == (".", train, val)
    assert find_splits(tmp_path, Layout("none")) == Splits(tmp_path, None, None)


def test_nested_classes_are_told_how_to_say_so(tmp_path: Path) -> None:
    tree(tmp_path, {f"{name}/{place}": 1 for name in ("cat", "dog") for place in ("indoor", "outdoor")})
    message = refusal(find_splits, tmp_path)
    assert "cat, dog hold folders of the same names (indoor, outdoor), as parts do. " in message
    assert (
        "If cat, dog are classes, say `--split none`: every picture below a class folder is of that class." in message
    )
    assert find_splits(tmp_path, Layout("none")) == Splits(tmp_path, None, None)


def test_parts_whose_classes_are_nearly_the_same(tmp_path: Path) -> None:
    tree(tmp_path, {f"{part}/{name}": 1 for part in ("tr", "va") for name in ("cat", "dog")} | {"tr/owl": 1})
    write(tmp_path, {"annotations/boxes/1.xml": b"", "annotations/masks/1.xml": b""})
    assert "tr, va hold folders of the same names (cat, dog)" in refusal(find_splits, tmp_path)


@pytest.mark.parametrize(
    "split", ["train", "train,", ",", "a,a", "a,b,c,d", "a,a/", ",a", "a,b,", "a,b,a", "a, ", "/a,/b"]
)
def test_invalid_splits(tmp_path: Path, split: str) -> None:
    assert "give auto, none, or names of folders: TRAIN,VAL or TRAIN,VAL,TEST; or TRAIN,,TEST" in refusal(
        find_splits, tmp_path, Layout(split)
    )


def test_a_split_that_names_no_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "val/a": 1})
    assert "has no folder Val, which --split names: it has train, val" in refusal(
        find_splits, tmp_path, Layout("train,Val")
    )


@pytest.mark.parametrize("split", ["tr, va", " tr ,va ", "./tr,va/", "tr/,./va"])
def test_names_as_users_type_them(tmp_path: Path, split: str) -> None:
    tree(tmp_path, {"tr/a": 1, "va/a": 1})
    assert relative(find_splits(tmp_path, Layout(split)), tmp_path) == (".", "tr", "va")


def test_three_named_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, {f"{part}/a": 1 for part in ("one", "two", "test")})
    assert relative(find_splits(tmp_path, Layout("one,two,test")), tmp_path) == (".", "one", "two", "test")
    assert relative(find_splits(tmp_path, Layout("one,,test")), tmp_path) == (".", "one", "", "test")
    assert not caplog.records
    find_splits(tmp_path, Layout("one,test"))
    assert "the best weights will be chosen by test, so its accuracy will be a little too good" in caplog.text
    assert "say `--split one,,test`" in caplog.text


def test_a_class_that_validation_and_test_share(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "test/b": 1})
    (tmp_path / "test" / "a").symlink_to("../val/a")
    assert "or one contains the other, and test images would choose the weights" in refusal(find_splits, tmp_path)


@pytest.mark.parametrize("split", [".,va", "tr,tr/a", "tr,again"])
def test_parts_that_share_images(tmp_path: Path, split: str) -> None:
    tree(tmp_path, {"tr/a": 1, "tr/b": 1, "va/a": 1})
    (tmp_path / "again").symlink_to("tr")
    assert "or one contains the other, and validation images would be trained on" in refusal(
        find_splits, tmp_path, Layout(split)
    )


def test_a_class_that_both_parts_share(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "val/a": 1, "val/b": 1})
    (tmp_path / "train" / "b").symlink_to("../val/b")
    assert f"{tmp_path}/train/b and {tmp_path}/val/b are the same folder, or" in refusal(find_splits, tmp_path)


def test_validation_parts_only(tmp_path: Path) -> None:
    assert holds_only_held_out(tree(tmp_path / "a", {"val/x": 1, "Test/x": 1}))
    assert not holds_only_held_out(tree(tmp_path / "b", {"val/x": 1, "cat/x": 1}))


def test_a_broken_link_may_be_a_part(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "val").symlink_to("/nonexist")
    assert f"{tmp_path}/val is a link to /nonexist" in refusal(find_splits, tmp_path)
