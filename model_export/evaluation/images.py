"""The images of a data set that a model is evaluated on."""

from __future__ import annotations

from pathlib import Path

from model_export.datasets.base import Dataset
from model_export.datasets.by_name import is_folder, open_data
from model_export.datasets.image_folder import OnBroken, open_folder, open_images
from model_export.datasets.layout import AUTO, Layout


def evaluation_images(
    spec: str, *, broken: OnBroken = "refuse", val_share: float | None = None, seed: int = 0, layout: Layout = AUTO
) -> Dataset:
    """The validation part of a data set; all images of a folder without one.

    Args:
        spec: as for `open_data`.
        broken, layout: of a folder: see `open_folder`.
        val_share, seed: of a folder that a training has split: the part that the training kept for validation.

    Raises:
        InputError: there is no such data set, or it cannot be used.
        Unavailable: CIFAR-10 cannot be downloaded.
    """
    if not is_folder(spec):
        return open_data(spec).val
    if val_share is not None:
        return open_folder(Path(spec), val_share=val_share, seed=seed, broken=broken, layout=layout).val
    return open_images(Path(spec), broken=broken, layout=layout)
