"""Trees of real image files, whole and broken, on a real file system."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_export.datasets.base import Data, Dataset
from model_export.datasets.holding_out import Fold
from model_export.datasets.image_folder import open_folder, open_images, open_unlabelled
from model_export.datasets.layout import Layout
from tests.model_export.datasets.trees import encoded, refusal, tree, write

TRUNCATED = encoded(size=(400, 300))[:-600]


def relative(dataset: Dataset, root: Path) -> list[str]:
    return [str(Path(dataset.title(i)).relative_to(root)) for i in range(len(dataset))]


# --- one tree ------------------------------------------------------------------------------------------------------


def test_every_kind_of_image_at_any_depth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(
        tmp_path / "pets",
        {
            "dog/b.JPG": encoded(),
            "dog/a.jpeg": encoded(colour="blue"),
            "cat/old/deep/z.png": encoded("PNG"),
            "cat/a.WebP": encoded("WEBP"),
            "cat/._a.webp": b"left by a file system",
            "cat/.thumbnails/a.png": encoded("PNG"),
            "cat/notes.txt": b"",
            "dog/c.gif": b"GIF89a",
            "dog/d.gif": b"GIF89a",
            "dog/LICENSE": b"",
            "labels.csv": b"",
            ".cache/x/y.jpg": encoded(),
        },
    )
    with caplog.at_level(logging.INFO):
        dataset = open_images(root)
    assert dataset.classes == ("cat", "dog")
    assert relative(dataset, root) == ["cat/a.WebP", "cat/old/deep/z.png", "dog/a.jpeg", "dog/b.JPG"]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.name == "pets"
    assert dataset.title(3) == f"{root}/dog/b.JPG"
    assert dataset.read(2) == encoded(colour="blue")
    assert dataset.image(2).getpixel((5, 5)) == (0, 0, 254)
    assert "ignored 6 files that are not images (2 .gif" in caplog.text
    for kind in ("1 .csv", "1 hidden", "1 .txt", "1 without extension"):
        assert kind in caplog.text
    assert "pets: checking: 4 of 4 images" in caplog.text


def test_a_clean_tree_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_images(tree(tmp_path / "pets", {"a": 1, "b": 1}), shown=False)
    assert [record.getMessage() for record in caplog.records] == ["pets: 2 classes: a, b; 2 images"]


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", {"a": 2, "b": 1})
    root = tmp_path / "linked"
    root.mkdir()
    (root / "x").symlink_to(elsewhere / "a")
    (root / "y").mkdir()
    (root / "y" / "one.jpg").symlink_to(elsewhere / "b" / "000.jpg")
    (root / "y" / "more").symlink_to(elsewhere / "a")
    assert relative(open_images(root), root) == [
        "x/000.jpg",
        "x/001.jpg",
        "y/more/000.jpg",
        "y/more/001.jpg",
        "y/one.jpg",
    ]


def test_links_in_a_circle(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "up").symlink_to(tmp_path / "b")
    assert relative(open_images(tmp_path), tmp_path) == ["a/000.jpg", "b/000.jpg"]


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path / "pets", {"a": 1, "b": 1}))
    assert open_images(Path()).name == "pets"


def test_it_travels_to_workers(tmp_path: Path) -> None:
    dataset = open_images(tree(tmp_path, {"a": 1, "b": 1}))
    assert pickle.loads(pickle.dumps(dataset)).read(1) == encoded(comment="b/000.jpg")


# --- broken images -------------------------------------------------------------------------------------------------


def with_broken(root: Path) -> Path:
    tree(root, {"a": 3, "b": 3})
    return write(root, {"a/cut.jpg": TRUNCATED, "a/empty.png": b"", "b/text.jpg": b"hello", "b/fake.png": b"GIF89a.."})


def test_broken_images_are_refused_by_name(tmp_path: Path) -> None:
    message = refusal(open_images, with_broken(tmp_path))
    assert f"4 of the 10 images in {tmp_path} cannot be used" in message
    for name in ("a/cut.jpg", "a/empty.png", "b/text.jpg", "b/fake.png"):
        assert f"{tmp_path}/{name} (" in message
    assert message.endswith("with `--ignore NAME` (`train` and `evaluate` also have `--broken skip`)")


def test_only_the_first_broken_images_are_named(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    message = refusal(open_images, write(tmp_path, {f"a/{i}.png": b"" for i in range(8)}))
    assert "8 of the 10 images" in message
    assert "a/4.png" in message
    assert "a/5.png" not in message


def test_broken_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_images(with_broken(tmp_path), broken="skip")
    assert relative(dataset, tmp_path) == [f"{name}/{i:03}.jpg" for name in "ab" for i in range(3)]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4
    assert warnings[0].startswith(f"left out: {tmp_path}/a/cut.jpg (")


def test_a_class_of_broken_images_only(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 2})
    write(tmp_path, {"b/1.jpg": TRUNCATED, "b/2.jpg": b"x"})
    message = refusal(open_folder, tmp_path, broken="skip")
    assert message.startswith(f"all images in {tmp_path / 'b'} are broken: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "000.jpg").chmod(0)
    assert "a/000.jpg (Permission denied)" in refusal(open_images, tmp_path)


def test_a_broken_link(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "a/lost.jpg (No such file or directory)" in refusal(open_images, tmp_path)


def test_a_class_folder_called_like_an_image(tmp_path: Path) -> None:
    assert open_images(tree(tmp_path, {"a.jpg": 1, "b.png": 1})).classes == ("a.jpg", "b.png")


# --- wrong layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [open_folder, open_images])
def test_roots_that_are_not_folders(tmp_path: Path, action: Callable[..., object]) -> None:
    assert f"{tmp_path}/typo does not exist: give a folder" in refusal(action, tmp_path / "typo")
    write(tmp_path, {"cat.jpg": b"", "pets.zip": b"PK", "pets.tar.gz": b""})
    assert f"{tmp_path}/cat.jpg is not a folder: give" in refusal(action, tmp_path / "cat.jpg")
    for name in ("pets.zip", "pets.tar.gz"):
        assert (
            refusal(action, tmp_path / name) == f"{tmp_path}/{name} is an archive: unpack it first, and give the folder"
        )


@pytest.mark.parametrize("root", [Path("https://example.org/pets.zip"), Path("/data/https:/example.org/pets.zip")])
def test_a_url_instead_of_a_folder(root: Path) -> None:
    assert refusal(open_folder, root) == (
        "https://example.org/pets.zip is a URL: download it, unpack it, and give the folder"
    )


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "pets", {"a": 2, "b": 2})
    write(tmp_path / "photos", {"1.jpg": encoded()})
    assert len(open_folder(Path("~/pets")).train) == 2
    assert len(open_images(Path("~/pets"))) == len(open_images(Path("~/pets"))) == 4
    assert len(open_unlabelled(Path("~/photos"))) == 1
    assert "the home folder ~nobody-of-this-name is unknown: give the path in full" in refusal(
        open_folder, Path("~nobody-of-this-name/pets")
    )


@pytest.mark.parametrize("action", [open_folder, open_images])
def test_images_without_class_folders(tmp_path: Path, action: Callable[..., object]) -> None:
    message = refusal(action, write(tmp_path, {"2.jpg": encoded(), "1.jpg": encoded(), "a/1.jpg": encoded()}))
    assert f"{tmp_path} holds images directly (2: 1.jpg, 2.jpg)" in message
    assert "move them into one folder per class" in message


@pytest.mark.parametrize("files", [{}, {"readme.txt": b""}, {".git/x.jpg": encoded()}])
def test_no_class_folders(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert refusal(open_folder, write(tmp_path, files)).startswith(f"{tmp_path} holds no folders: put the images of")


def test_one_class(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 3})
    assert refusal(open_folder, tmp_path) == (f"{tmp_path} holds only one class folder, a: give at least two classes")
    assert open_images(tmp_path).classes == ("a",)  # enough to evaluate on


def test_train_without_val(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1, "others/c": 1, "others/d": 1})
    message = refusal(open_folder, tmp_path)
    assert f"{tmp_path} has train and no folder for the other part: name both with `--split TRAIN,VAL`" in message
    assert f"or give {tmp_path}/train, to have it split" in message
    tree(tmp_path, {"others/a": 1, "others/b": 1})
    data = open_folder(tmp_path, layout=Layout("train,others", ("c", "d")))
    assert (data.train.name, data.val.classes) == (f"{tmp_path.name}/train", ("a", "b"))


@pytest.mark.parametrize("action", [open_folder, open_images])
def test_parts_that_are_not_classes(tmp_path: Path, action: Callable[..., object]) -> None:
    tree(tmp_path / "bare", {"train": 1, "test": 1})
    assert "images without class folders in test, train" in refusal(action, tmp_path / "bare")
    tree(tmp_path / "pets", {f"{part}/{name}": 1 for part in ("holdout", "train") for name in "ab"})
    assert "as in `--split train,holdout`" in refusal(action, tmp_path / "pets")
    tree(tmp_path / "inside", {f"{name}/{part}": 1 for part in ("train", "val") for name in "ab"})
    assert "holds parts of a data set (train, val)" in refusal(action, tmp_path / "inside")


def test_links_from_one_part_into_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path, {f"{part}/{name}": 1 for part in ("train", "val") for name in "ab"})
    (root / "val" / "b" / "more").symlink_to(root / "train" / "b")
    with caplog.at_level(logging.INFO):
        data = open_folder(root)
    assert (len(data.train), len(data.val), len(open_images(root))) == (2, 2, 2)
    assert f"{root}/val: ignored links out of a class into the data set itself (b/more)" in caplog.text


def test_classes_that_differ_in_capitals_or_blanks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_folder(tree(tmp_path / "one", {"cat": 2, "Cat": 2, "dog": 2}))
    assert "the classes Cat, cat differ only in capitals; they stay separate" in caplog.text
    root = tree(tmp_path / "two", {"train/cat": 1, "train/dog": 1, "val/cat ": 1, "val/dog": 1})
    assert f"only {root}/train has cat; only {root}/val has 'cat ')" in refusal(open_folder, root)


def test_what_is_ignored_among_loose_images(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": encoded(), "2.jpg": encoded()})
    assert len(open_unlabelled(tmp_path, layout=Layout(ignore=("2.jpg",)))) == 1
    assert "--ignore 3.jpg matches no" in refusal(open_unlabelled, tmp_path, layout=Layout(ignore=("3.jpg",)))


def test_names_are_never_printed_raw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = "\x1b[31m\n"
    root = tree(tmp_path, {f"my{bad}/{part}/{name}": 1 for part in ("train", "val") for name in "ab"})
    write(root, {f"my{bad}/x{bad}/1.txt": b"", f"my{bad}/train/a/x.{bad}": b"", f"my{bad}/train/a/{bad}.jpg": b""})
    with caplog.at_level(logging.INFO):
        open_folder(root, broken="skip", shown=False)
    assert len(caplog.records) == 4
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert refusal(open_folder, root).isprintable()


def test_empty_classes(tmp_path: Path) -> None:
    write(tmp_path, {"a/1.jpg": encoded(), "b/notes.txt": b"", "d/1.jpg": encoded()})
    (tmp_path / "c").mkdir()
    message = refusal(open_folder, tmp_path)
    assert message.startswith("there are no images (JPEG, PNG or WebP) in ")
    assert "`--ignore NAME`" in message
    assert open_folder(
        write(tmp_path, {"a/2.jpg": encoded(colour="blue")}), layout=Layout(ignore=("b", "c"))
    ).val.classes == (
        "a",
        "d",
    )
    assert f"in {tmp_path}/b, {tmp_path}/c: put some there" in message


def test_classes_that_differ(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 1, "train/b": 1, "train/c": 1, "val/a": 1, "val/d": 1})
    message = refusal(open_folder, tmp_path)
    assert f"the classes of {tmp_path}/train and {tmp_path}/val differ (" in message
    assert f"only {tmp_path}/train has b, c; only {tmp_path}/val has d)" in message
    (tmp_path / "val" / "d").rename(tmp_path / "val" / "b")
    message = refusal(open_folder, tmp_path)
    assert "train has c)" in message
    assert "only " + str(tmp_path / "val") not in message


# --- two trees -----------------------------------------------------------------------------------------------------


def test_two_trees(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1})
    data = open_folder(root)
    assert (data.train.name, data.val.name) == ("pets/train", "pets/val")
    assert data.train.classes == data.val.classes == ("a", "b")
    assert relative(data.train, root) == ["train/a/000.jpg", "train/a/001.jpg", "train/a/002.jpg"] + [
        f"train/b/00{i}.jpg" for i in range(2)
    ]
    assert relative(data.val, root) == ["val/a/000.jpg", "val/b/000.jpg"]


@pytest.mark.parametrize("names", [("val", "validation"), ("validation", "valid"), ("valid", "dev")])
def test_names_of_the_second_tree(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = tree(tmp_path, {f"{part}/{name}": 1 for part in ("train", *names) for name in "ab"})
    assert relative(open_folder(root).val, root)[0].startswith(f"{names[0]}/a")
    assert relative(open_images(root), root)[0].startswith(f"{names[0]}/a")


def test_a_test_part_never_chooses_the_weights(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"train/a": 20, "train/b": 10, "test/a": 3, "test/b": 3})
    data = open_folder(root, val_share=0.2, seed=1)
    assert data.test is not None
    assert [part.name for part in data.parts] == ["pets/train (train)", "pets/train (val)", "pets/test"]
    assert np.bincount(data.val.labels).tolist() == [4, 2]
    assert all(name.startswith("train/") for part in (data.train, data.val) for name in relative(part, root))
    assert relative(data.held_out, root) == [f"test/{name}/00{i}.jpg" for name in "ab" for i in range(3)]
    assert relative(open_images(root), root) == relative(data.test, root)
    tree(root, {"val/a": 1, "val/b": 1})
    data = open_folder(root)
    assert [part.name for part in data.parts] == ["pets/train", "pets/val", "pets/test"]
    tree(root, {"test/c": 1})
    assert f"only {root}/test has c" in refusal(open_folder, root)


def test_folds_of_a_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"train/a": 6, "train/b": 3, "test/a": 1, "test/b": 1})
    data = open_folder(root, fold=Fold(2, 3))
    assert np.bincount(data.val.labels).tolist() == [2, 1]
    tree(root, {"val/a": 1, "val/b": 1})
    message = refusal(open_folder, root, fold=Fold(2, 3))
    assert (
        "has its own validation part, val: leave --folds and --fold out, or skip that part with `--ignore val`"
        in message
    )
    assert len(open_folder(root, fold=Fold(2, 3), layout=Layout(ignore=("val",))).val) == 3


def test_the_layout_is_logged_before_anything_is_decoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path / "pets", {"Training/a": 3, "Training/b": 2, "Testing/a": 1, "Testing/b": 1, "masks/a": 1})
    with caplog.at_level(logging.INFO):
        data = open_folder(root)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (3, 2, 2)
    assert f"{root}: ignored the folders masks" in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    layout = lines.index("pets: 2 classes: a, b; 5 images in Training to train on, 2 in Testing to test on")
    assert layout < next(i for i, line in enumerate(lines) if "checking" in line)


def test_an_image_whose_name_is_not_utf8(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a": 1, "b": 1})
    (root / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"no image")
    message = refusal(open_images, root)
    assert "a/caf\\xe9.jpg (" in message
    assert message.isascii()


def test_images_without_labels(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", {"b.jfif": encoded(), "a.jpg": encoded(), "._a.jpg": b"\0", "notes.txt": b""})
    whole = open_unlabelled(root)
    assert (whole.name, whole.classes, relative(whole, root)) == ("photos", (), ["a.jpg", "b.jfif"])
    assert "c.png (" in refusal(open_unlabelled, write(root, {"c.png": b"no image"}))
    assert open_unlabelled(tree(tmp_path / "pets", {"a": 1})) is None
    assert f"{tmp_path}/typo does not exist" in refusal(open_unlabelled, tmp_path / "typo")


def test_a_class_called_train(tmp_path: Path) -> None:
    data = open_folder(tree(tmp_path, {"bus": 2, "train": 2}))
    assert data.train.classes == ("bus", "train")


def test_what_is_evaluated(tmp_path: Path) -> None:
    assert open_images(tree(tmp_path / "plain", {"a": 1, "b": 1})).classes == ("a", "b")
    assert open_images(tree(tmp_path / "only", {"val/a": 1, "val/b": 1})).classes == ("a", "b")
    both = tree(tmp_path / "both", {f"{part}/{name}": 1 for part in ("val", "test") for name in "ab"})
    assert open_images(both).name == "both/test"
    assert open_images(tree(tmp_path / "parts", {"invalid": 1, "valid": 1})).classes == ("invalid", "valid")


# --- the split -----------------------------------------------------------------------------------------------------


def parts(data: Data, root: Path) -> tuple[list[str], list[str]]:
    return relative(data.train, root), relative(data.val, root)


def test_one_tree_is_split_class_by_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"a": 20, "b": 10, "c": 2, "d": 1})
    data = open_folder(root, val_share=0.2)
    train, val = parts(data, root)
    assert sorted(train + val) == sorted(relative(open_images(root), root))
    assert np.bincount(data.val.labels, minlength=4).tolist() == [4, 2, 1, 0]
    assert np.bincount(data.train.labels, minlength=4).tolist() == [16, 8, 1, 1]
    assert train == sorted(train)
    assert val == sorted(val)
    assert data.train.classes == data.val.classes == ("a", "b", "c", "d")
    assert (data.train.name, data.val.name) == ("pets (train)", "pets (val)")
    for names, dataset in ((train, data.train), (val, data.val)):
        assert [name[0] for name in names] == [dataset.classes[label] for label in dataset.labels]


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a": 20, "b": 20})
    first = parts(open_folder(root, seed=1), root)
    assert first == parts(open_folder(root, seed=1), root)
    assert first != parts(open_folder(root, seed=2), root)
    assert [name[2:] for name in first[1][:2]] != [name[2:] for name in first[1][2:]]  # each class by itself


def test_a_large_share_leaves_something_to_train_on(tmp_path: Path) -> None:
    data = open_folder(tree(tmp_path, {"a": 3, "b": 2}), val_share=0.99)
    assert data.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_invalid_shares(tmp_path: Path, share: float) -> None:
    message = refusal(open_folder, tree(tmp_path, {"a": 3, "b": 3}), val_share=share)
    assert message.startswith(f"the share of images to validate on is {share}: ")


def test_nothing_left_to_validate_on(tmp_path: Path) -> None:
    message = refusal(open_folder, tree(tmp_path / "pets", {"a": 1, "b": 1}))
    assert message == "pets has one image per class (copies count as one), which leaves none to validate on: add more"
