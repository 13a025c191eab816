"""Sets a part of a data set aside for validation: a share of every class, or one of several folds."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.datasets.copies import first_copies
from model_export.datasets.subset import Subset
from model_export.errors import InputError, shortlist

logger = logging.getLogger(__name__)

FOLDS = 0xF01D  # apart from the class ids, which seed the shuffling for a share


class Fold(NamedTuple):
    """One part of a cross-validation: fold `number`, from 1 to `of`, is validated on, the others are trained on."""

    number: int
    of: int


def hold_out(whole: Dataset, *, share: float = 0.1, seed: int = 0, fold: Fold | None = None) -> tuple[Subset, Subset]:
    """The images to train on and those to validate on; every class is divided by itself (stratified).

    Multi-label images are divided by the rarest class that each of them has; those without any, by themselves. Copies
    of an image go where the first of them goes, and count as one.

    Args:
        share: of every class, to validate on; every class of two different images has at least one in each part.
        seed: decides which images these are; with `fold`, which images each fold holds.
        fold: if given, this fold is validated on, and `share` is not used.

    Raises:
        InputError: the share or the fold is impossible, or nothing would be left to train or to validate on.
    """
    first = first_copies(whole)
    different = np.flatnonzero(first == np.arange(len(whole)))
    strata = _strata(whole)[different]
    chosen = np.zeros(len(whole), dtype=bool)
    chosen[different] = _in_share(whole, strata, share, seed) if fold is None else _in_fold(whole, strata, fold, seed)
    chosen = chosen[first]
    if copies := len(whole) - len(different):
        logger.info("%s: %d images are copies of others; copies stay together", whole.name, copies)
    train, val = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    what = f"seed {seed}" if fold is None else f"fold {fold.number} of {fold.of}, seed {seed}"
    logger.info("%s: %d images to train on, %d to validate on (%s)", whole.name, len(train), len(val), what)
    return Subset(whole, train, f"{whole.name} (train)"), Subset(whole, val, f"{whole.name} (val)")


def check_share(share: float) -> None:
    """Raises InputError unless a share of images can be validated on."""
    if not 0 < share < 1:
        raise InputError(f"the share of images to validate on is {share}: give one between 0 and 1, such as 0.1")


def check_fold(fold: Fold) -> None:
    """Raises InputError unless there is such a fold."""
    if fold.of < 2 or not 1 <= fold.number <= fold.of:
        raise InputError(
            f"there is no fold {fold.number} of {fold.of}: give `--folds K`, at least 2, and `--fold 1` to K"
        )


def _in_share(whole: Dataset, strata: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which of the different images are validated on: bool (n,).

    Args:
        strata: of the different images, int64 (n,).
    """
    check_share(share)
    chosen = np.zeros(len(strata), dtype=bool)
    for label in range(len(whole.classes) + 1):
        members = np.flatnonzero(strata == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[np.random.default_rng((seed, label)).permutation(members)[: max(0, count)]] = True
    if not chosen.any():
        raise InputError(
            f"{whole.name} has one image per class (copies count as one), which leaves none to validate on: add more"
        )
    counts = whole.labels.sum(axis=0) if whole.multi_label else np.bincount(strata, minlength=len(whole.classes))
    if single := [whole.classes[i] for i in np.flatnonzero(counts == 1)]:
        logger.warning(
            "%s: classes with one image only, which is trained on: %s. Add more: nothing tells how well it is learnt",
            whole.name,
            shortlist(single),
        )
    return chosen


def _in_fold(whole: Dataset, strata: np.ndarray, fold: Fold, seed: int) -> np.ndarray:
    """As `_in_share`, for a fold. Folds differ by at most one image, and by at most one of each class."""
    check_fold(fold)
    counts = np.bincount(strata, minlength=len(whole.classes))
    if counts.max() < fold.of:
        raise InputError(
            f"{whole.name} has at most {counts.max()} different images of a class, too few for {fold.of} folds: give "
            "fewer folds"
        )
    shuffled = np.random.default_rng((seed, FOLDS)).permutation(len(strata))
    by_class = shuffled[np.argsort(strata[shuffled], kind="stable")]
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[by_class[fold.number - 1 :: fold.of]] = True
    return chosen


def _strata(whole: Dataset) -> np.ndarray:
    """What each image is divided by: int64 (N,) class ids; `len(whole.classes)` for images without a class."""
    if not whole.multi_label:
        return whole.labels
    rarity = np.where(whole.labels > 0, whole.labels.sum(axis=0), np.inf)  # (N, classes)
    return np.where(whole.labels.any(axis=1), rarity.argmin(axis=1), len(whole.classes))
