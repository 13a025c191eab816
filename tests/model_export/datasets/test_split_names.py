"""Words for parts in the names of folders."""

from __future__ import annotations

import pytest

from model_export.datasets.split_names import TEST, TRAIN, VAL, is_one_word, name_both_parts, names_a_split, rank


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("train", TRAIN, (1, 1)),
        ("seg_train", TRAIN, (1, 2)),
        ("TrainingSet", TRAIN, (2, 2)),
        ("val2017", VAL, (1, 1)),
        ("test", VAL, None),
        ("test_set", TEST, (1, 2)),
        ("trains", TRAIN, None),
        ("cats", VAL, None),
    ],
)
def test_rank(name: str, words: tuple[str, ...], expected: tuple[int, int] | None) -> None:
    assert rank(name, words) == expected


def test_names_of_parts() -> None:
    assert names_a_split("freight_train")
    assert not is_one_word("freight_train", TRAIN)
    assert name_both_parts(["freight_train", "test_tube"], one_word=False)
    assert not name_both_parts(["freight_train", "test_tube"], one_word=True)
    assert name_both_parts(["bus", "Train", "TEST"], one_word=True)
