"""Folders with a `labels.csv`: what is read, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.datasets.by_name import open_data
from model_export.datasets.holding_out import Fold
from model_export.datasets.image_folder import open_folder
from model_export.datasets.layout import Layout
from model_export.datasets.multi_label_folder import is_multi_label, open_multi_label, open_multi_label_images
from model_export.drawings.pictures import STYLES, picture
from model_export.errors import InputError
from model_export.evaluation.images import evaluation_images

STYLE = STYLES["easy"].square(32)


def write(folder: Path, rows: str, *images: str) -> Path:
    """A part: a `labels.csv` with these rows, and images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1, number, STYLE))
    (folder / "labels.csv").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path / "pets/train", "file,labels\nb/2.jpg,dog; person \n1.jpg,\n3.jpg,cat\n", "1.jpg", "b/2.jpg", "3.jpg"
    )
    write(tmp_path / "pets/val", "\ufefflabels,file\ncat;cat,1.jpg\n", "1.jpg")
    return tmp_path / "pets"


def test_the_parts(root: Path) -> None:
    assert is_multi_label(root)
    data = open_data(str(root))
    assert data.train.classes == data.val.classes == ("cat", "dog", "person")
    assert data.train.multi_label
    assert [data.train.title(i) for i in range(3)] == [
        str(root / "train" / name) for name in ("1.jpg", "3.jpg", "b/2.jpg")
    ]
    assert data.train.labels.dtype == np.float32
    assert data.train.labels.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert [data.train.label_text(i) for i in range(3)] == ["", "cat", "dog+person"]
    assert data.val.labels.tolist() == [[1, 0, 0]]
    assert (data.train.name, data.val.name, data.test) == ("pets/train", "pets/val", None)
    assert data.train.image(1).size == (32, 32)


def test_a_test_part_measures_and_never_chooses(root: Path) -> None:
    write(root / "test", "file,labels\n1.jpg,dog\n", "1.jpg")
    data = open_data(str(root))
    assert data.test is not None
    assert evaluation_images(str(root)).name == "pets/test"
    (root / "val" / "labels.csv").unlink()
    write(root / "train", "file,labels\n1.jpg,dog\n3.jpg,dog\nb/2.jpg,cat\n")
    held = open_data(str(root), val_share=0.4)
    assert (len(held.train), len(held.val)) == (2, 1)
    assert held.test is not None


def test_what_is_evaluated(root: Path) -> None:
    found = open_multi_label_images(root, shown=False)
    assert (found.name, found.classes) == ("pets/val", ("cat", "dog", "person"))  # those of the training part
    alone = open_multi_label_images(root / "val", shown=False)
    assert (alone.name, alone.classes) == ("pets/val", ("cat",))


def test_one_tree_is_split_by_the_rarest_class_of_an_image(tmp_path: Path) -> None:
    rows = [f"{i:02}.jpg,{'common;rare' if i < 4 else 'common' if i < 24 else ''}" for i in range(32)]
    write(tmp_path / "all", "\n".join(["file,labels", *rows]), *(f"{i:02}.jpg" for i in range(32)))
    data = open_multi_label(tmp_path / "all", val_share=0.25, shown=False)
    assert data.val.labels.sum(axis=0).tolist() == [6, 1]  # common, rare: a quarter of each
    assert len(data.val) == 8
    again = open_multi_label(tmp_path / "all", val_share=0.25, shown=False)
    assert again.val.digest() == data.val.digest()
    folds = [open_multi_label(tmp_path / "all", fold=Fold(i, 4), shown=False).val for i in (1, 2, 3, 4)]
    assert [fold.labels[:, 1].sum() for fold in folds] == [1, 1, 1, 1]


def test_the_digest_is_of_images_and_labels(root: Path) -> None:
    before = open_multi_label_images(root / "train", shown=False).digest()
    rows = (root / "train" / "labels.csv").read_text()
    (root / "train" / "labels.csv").write_text(rows.replace("1.jpg,\n", "1.jpg,dog\n"))
    assert open_multi_label_images(root / "train", shown=False).digest() != before


def test_class_folders_with_another_csv_are_what_they_were(tmp_path: Path) -> None:
    names = ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg")
    write(tmp_path / "pets", "id,breed\n0,poodle\n", *names)
    assert not is_multi_label(tmp_path / "pets")
    assert open_folder(tmp_path / "pets", shown=False).train.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("image,labels\n1.jpg,cat\n", r"has the columns image, labels: give it the columns file and labels"),
        ("file,labels,fold\n1.jpg,cat,1\n", "has the columns file, labels, fold: give it"),
        ("file,labels\n1.jpg,cat\n1.jpg,dog\n", r"line 3 of .*labels.csv lists 1.jpg again: merge its rows"),
        ("file,labels\n1.jpg,cat\n./1.jpg,dog\n", "lists ./1.jpg again"),
        ("file,labels\n1.jpg,cat\n2.jpg,dog\n", r"lists 1 files that are not there \(2.jpg\)"),
        ("file,labels\n1.jpg,cat\n../1.jpg,dog\n", "has the file '../1.jpg': give its path below"),
        ("file,labels\n1.jpg,cat\n,dog\n", "has the file '': give its path below"),
        ("file,labels\n1.jpg,cat,dog\n", "line 2 of .* does not have two columns: quote names with commas"),
        ("file,labels\n1.jpg\n", "line 2 of .* does not have two columns"),
        ("file,labels\n1.jpg,\n", "names no class for any image"),
        ('file,labels\n1.jpg,"ca\tt"\n', "has a class name with control characters"),
        ('file,labels\n1.jpg,"cat', r"labels.csv cannot be read \(unexpected end of data\)"),
        ("file,labels\n", r"does not list 1 images beside it \(1.jpg\): add rows"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, rows: str, fault: str) -> None:
    write(tmp_path / "train", rows, "1.jpg")
    with pytest.raises(InputError, match=fault):
        open_multi_label_images(tmp_path / "train", shown=False)


def test_parts_that_do_not_fit(root: Path) -> None:
    (root / "val" / "labels.csv").write_text("file,labels\n1.jpg,bird\n")
    with pytest.raises(InputError, match=r"names classes that no image of the training part has \(bird\)"):
        open_multi_label(root, shown=False)
    (root / "val" / "labels.csv").unlink()
    with pytest.raises(
        InputError, match=r"has labels.csv in train: give train one, and val or test; or give .*train, to"
    ):
        open_multi_label(root, shown=False)


def test_options_of_class_folders(root: Path) -> None:
    with pytest.raises(InputError, match="has its own validation part, val: leave --folds and --fold out"):
        open_multi_label(root, fold=Fold(1, 2), shown=False)
    with pytest.raises(InputError, match=r"--split is for class folders: the parts of .* are train, val, test"):
        open_multi_label(root, layout=Layout("train,val"), shown=False)


def test_images_that_are_ignored_or_broken(root: Path) -> None:
    (root / "train" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of the 3 images in .*train cannot be used: .*3\.jpg"):
        open_multi_label(root, shown=False)
    with pytest.raises(InputError, match="names classes that no image"):
        open_multi_label(root, shown=False, layout=Layout(ignore=("3.jpg",)))  # the only cat
    (root / "val" / "labels.csv").write_text("file,labels\n1.jpg,dog\n")
    ignored = open_multi_label(root, shown=False, layout=Layout(ignore=("3.jpg",)))
    assert (len(ignored.train), ignored.train.classes) == (2, ("dog", "person"))
    assert len(open_multi_label(root, shown=False, broken="skip").train) == 2
