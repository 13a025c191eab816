"""The images of a data set that a model is evaluated on."""

from __future__ import annotations

from pathlib import Path

from model_export.datasets.base import Dataset
from model_export.datasets.by_name import is_folder, open_data
from model_export.datasets.checking import OnBroken
from model_export.datasets.holding_out import Fold
from model_export.datasets.image_folder import open_images
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.multi_label_folder import is_multi_label, open_multi_label_images


def evaluation_images(
    spec: str,
    *,
    broken: OnBroken = "refuse",
    val_share: float | None = None,
    seed: int = 0,
    fold: Fold | None = None,
    layout: Layout = AUTO,
) -> Dataset:
    """The test part of a data set, else its validation part; all images of a folder without either.

    Args:
        spec: as for `open_data`.
        broken, layout: of a folder: see `open_folder`.
        val_share, seed, fold: of a training: what it kept of its images for validation is evaluated on instead.

    Raises:
        InputError: there is no such data set, or it cannot be used.
        Unavailable: CIFAR-10 cannot be downloaded.
    """
    if fold is not None or val_share is not None:
        share = 0.1 if val_share is None else val_share
        return open_data(spec, val_share=share, seed=seed, fold=fold, broken=broken, layout=layout).val
    if not is_folder(spec):
        return open_data(spec).held_out
    if is_multi_label(Path(spec)):
        return open_multi_label_images(Path(spec), broken=broken, layout=layout)
    return open_images(Path(spec), broken=broken, layout=layout)
