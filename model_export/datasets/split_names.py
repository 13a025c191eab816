"""Names of folders that hold the training, validation or test part of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

# In order of preference: "val" is taken before "dev".
TRAIN = ("train", "training", "trainset")
VAL = ("val", "validation", "valid", "valset", "dev")
TEST = ("test", "testing", "testset", "eval", "evaluation")
HELD_OUT = VAL + TEST


def names_a_split(name: str) -> bool:
    """Whether a folder's name has a word for a part: "seg_train" has, "cats" has not."""
    return bool(rank(name, TRAIN + HELD_OUT))


def is_one_word(name: str, words: tuple[str, ...]) -> bool:
    """Whether a name consists of one of the words and nothing else."""
    ranked = rank(name, words)
    return ranked is not None and ranked[1] == 1


def name_both_parts(names: Sequence[str], *, one_word: bool) -> bool:
    """Whether one of the names is for the training part, and one for validation or test.

    Args:
        one_word: whether only names without other words count.
    """
    recognised = is_one_word if one_word else rank
    return all(any(recognised(name, words) for name in names) for words in (TRAIN, HELD_OUT))


def rank(name: str, words: tuple[str, ...]) -> tuple[int, int] | None:
    """How well a name says that a folder is a part; lower is better. None if it has none of the words.

    Returns:
        the preference of its best word, from 1, and the number of words in the name: "seg_train" in TRAIN is (1, 2).
    """
    in_name = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    preferences = [words.index(word) for word in in_name if word in words]
    return (min(preferences) + 1, len(in_name)) if preferences else None
