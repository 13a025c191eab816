"""Parts kept for validation: shares and folds."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.datasets.drawings import Drawings
from model_export.datasets.holding_out import Fold, hold_out
from tests.model_export.datasets.trees import refusal


@pytest.fixture
def whole() -> Drawings:
    """33 drawings, of which 20 of the first class and 3 of the last."""
    dataset = Drawings(seed=1, count=33, classes=("circle", "cross", "stripes"))
    dataset.labels = np.repeat([0, 1, 2], [20, 10, 3])
    return dataset


def test_every_image_is_in_one_fold_and_every_class_in_all(whole: Drawings) -> None:
    folds = [hold_out(whole, fold=Fold(number, 3)) for number in (1, 2, 3)]
    assert sorted(np.concatenate([val.indices for _, val in folds])) == list(range(33))
    for train, val in folds:
        assert len(val) == 11
        assert sorted([*train.indices, *val.indices]) == list(range(33))
        assert np.abs(np.bincount(val.labels) - np.array([20, 10, 3]) / 3).max() < 1
    assert [part.name for part in folds[0]] == [f"{whole.name} (train)", f"{whole.name} (val)"]


def test_the_seed_decides_the_folds(whole: Drawings) -> None:
    first, again, other = (hold_out(whole, seed=seed, fold=Fold(1, 3))[1].indices.tolist() for seed in (4, 4, 5))
    assert first == again != other


def test_a_class_with_fewer_images_than_folds(whole: Drawings) -> None:
    held_out = [np.bincount(hold_out(whole, fold=Fold(i, 5))[1].labels, minlength=3)[2] for i in range(1, 6)]
    assert sorted(held_out) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("fold", [Fold(1, 1), Fold(4, 3), Fold(0, 3)])
def test_folds_that_do_not_exist(whole: Drawings, fold: Fold) -> None:
    assert f"there is no fold {fold.number} of {fold.of}: give" in refusal(hold_out, whole, fold=fold)


@pytest.mark.parametrize("several", [False, True])
def test_a_class_of_one_image_is_named(whole: Drawings, several: bool, caplog: pytest.LogCaptureFixture) -> None:
    labels = np.repeat([0, 1, 2], [20, 12, 1])
    whole.labels = np.eye(3, dtype=np.float32)[labels] if several else labels
    train, val = hold_out(whole)
    assert len(train) + len(val) == 33
    assert "classes with one image only, which is trained on: stripes. Add more" in caplog.text


def test_more_folds_than_images(whole: Drawings) -> None:
    assert "at most 20 different images of a class, too few for 21 folds" in refusal(hold_out, whole, fold=Fold(1, 21))


def test_copies_stay_together_and_count_as_one(whole: Drawings) -> None:
    digests = np.arange(33, dtype=np.uint8)[:, None].repeat(32, axis=1)
    digests[10:20] = digests[:10]  # of the 20 images of the first class, 10 are different
    digests[21] = digests[0]  # one is in another class, too
    whole.digests = digests
    parts = [hold_out(whole, share=0.2, seed=seed) for seed in range(5)]
    parts += [hold_out(whole, fold=Fold(number, 3)) for number in (1, 2, 3)]
    for train, val in parts:
        assert not {*map(bytes, train.digests)} & {*map(bytes, val.digests)}
        assert sorted([*train.indices, *val.indices]) == list(range(33))
    assert {len({*map(bytes, val.digests[val.labels == 0])}) for _, val in parts[:5]} == {2}  # a fifth of 10


def test_a_part_is_made_of_the_images_of_the_whole(whole: Drawings) -> None:
    train, val = hold_out(whole, share=0.2)
    assert np.bincount(val.labels).tolist() == [4, 2, 1]
    index = int(val.indices[2])
    assert val.title(2) == whole.title(index)
    assert val.read(2) == whole.read(index)
    assert val.image(2).tobytes() == whole.image(index).tobytes()
    assert val.classes == train.classes == whole.classes
