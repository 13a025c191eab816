"""The same image file in two parts of a data set, or twice in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.datasets.by_name import open_data
from model_export.datasets.copies import first_copies
from model_export.datasets.image_folder import open_images
from tests.model_export.datasets.trees import encoded, tree, write


def test_the_first_of_equal_files(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 3, "b": 2})
    write(tmp_path, {"a/001.jpg": encoded(colour="blue"), "b/001.jpg": encoded(colour="blue")})
    assert first_copies(open_images(tmp_path, shown=False)).tolist() == [0, 1, 2, 3, 1]


def test_images_that_are_in_two_parts_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path, {f"{part}/{name}": 2 for part in ("train", "val", "test") for name in "ab"})
    data = open_data(str(root))
    assert "also in" not in caplog.text
    for part in ("val", "test"):
        write(root, {f"{part}/b/copy.jpg": data.train.read(0)})
    open_data(str(root))
    said = [record.getMessage() for record in caplog.records if "also in" in record.getMessage()]
    name = root.name
    assert len(said) == 3
    assert said[0] == (
        f"1 of the 5 images of {name}/val are also in {name}/train ({root}/val/b/copy.jpg is {root}/train/a/000.jpg): "
        f"errors on {name}/val will be too low; remove them from one of the two"
    )
    assert f"of {name}/test are also in {name}/train" in said[1]
    assert f"of {name}/test are also in {name}/val" in said[2]


def test_a_share_that_is_kept_has_no_copies_of_what_is_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path, {"train/a": 8, "train/b": 8, "test/a": 1, "test/b": 1})
    for i in range(8):
        write(root, {f"train/a/copy{i}.jpg": (root / f"train/a/{i:03}.jpg").read_bytes()})
    caplog.set_level("INFO", "model_export")
    open_data(str(root), val_share=0.25)
    assert f"{root.name}/train: 8 images are copies of others; copies stay together" in caplog.text
    assert "also in" not in caplog.text


def test_labels_do_not_tell_copies_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In folders with several labels for an image, too."""
    for part, label in (("train", "a;b"), ("val", "a")):
        write(tmp_path / part, {"1.jpg": encoded(), "labels.csv": f"file,labels\n1.jpg,{label}\n".encode()})
    open_data(str(tmp_path))
    assert "1 of the 1 images of " in caplog.text
