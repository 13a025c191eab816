"""Images for calibration and for the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.datasets.drawings import Drawings
from model_export.drawings.pictures import picture, pixels
from model_export.errors import InputError
from model_export.quantise.images import batches, open_calibration_data, sample
from service.runtime.preprocessing import Preprocessing

SMALL = Preprocessing(resize=32, crop=32)


def test_a_sample_is_always_the_same_and_has_no_image_twice() -> None:
    dataset = Drawings(seed=3, count=50)
    some, others = sample(dataset, 20), sample(dataset, 100, skip=20)
    assert (len(some), len(others)) == (20, 30)
    assert sorted([*some.indices, *others.indices]) == list(range(50))
    assert np.array_equal(sample(dataset, 20).indices, some.indices)
    assert [some.title(i) for i in range(20)] == [dataset.title(i) for i in some.indices]
    assert some.read(5) == dataset.read(int(some.indices[5]))
    assert np.array_equal(some.labels, dataset.labels[some.indices])
    assert len(np.unique(some.labels)) > 8  # of 12: the sample is random


def test_batches_are_decoded_as_the_service_does() -> None:
    found = list(batches(Drawings(seed=3, count=5), SMALL, 2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert np.array_equal(np.concatenate(found), np.stack([pixels(3, i, SMALL) for i in range(5)]))


def test_a_folder_of_images_has_no_labels(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.JPG").write_bytes(picture(0, i))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._0.JPG").write_bytes(b"left by a file system")
    parts = open_calibration_data(str(tmp_path))
    assert (parts.train.classes, parts.val.classes) == ((), ())
    assert (len(parts.train), len(parts.val)) == (4, 5)
    titles = {part.title(i) for part in parts.parts for i in range(len(part))}
    assert titles == {str(tmp_path / f"{i}.JPG") for i in range(9)}


def test_a_folder_of_folders_has_labels_and_is_split_as_in_training(tmp_path: Path) -> None:
    for i in range(40):
        folder = tmp_path / ("a", "b")[i % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(picture(0, i))
    parts = open_calibration_data(str(tmp_path))
    assert parts.val.classes == ("a", "b")
    assert (len(parts.train), len(parts.val)) == (36, 4)


def test_a_broken_unlabelled_image_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(0, 0))
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of the 2 images in .* cannot be used: .*b\.jpg"):
        open_calibration_data(str(tmp_path))


@pytest.mark.parametrize(("content", "fault"), [(b"no image", "is not a JPEG"), (None, "No such file")])
def test_broken_images_are_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(picture(0, 0))
    whole = open_calibration_data(str(tmp_path)).val
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"broken\.jpg cannot be used: .*{fault}.*: replace it or leave it out"):
        list(batches(whole, SMALL, 8))
