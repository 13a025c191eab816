"""The metrics of a run, one row per evaluation: `metrics.csv` and TensorBoard events."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.tensorboard import SummaryWriter

from model_export.errors import InputError
from service.runtime.disk import write_atomically

METRICS_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


class Row(NamedTuple):
    """The metrics of one evaluation. Training figures are means over the augmented images since the previous row.

    Errors are fractions. Of multi-label runs, `train_error` is the share of classes that are wrongly present or absent
    at a probability of one half, and `val_error` is 1 - mAP, by which the best weights are chosen.
    """

    step: int  # optimiser steps so far
    epoch: float  # passes over the training set so far
    lr: float  # learning rate of the last step
    train_loss: float
    train_error: float
    val_loss: float
    val_error: float
    val_top5_error: float  # NaN of multi-label runs
    images_per_s: float  # of training, without evaluation
    seconds: float  # of work since the run began, across interruptions

    @property
    def multi_label(self) -> bool:
        return math.isnan(self.val_top5_error)


def best_row(rows: Sequence[Row]) -> Row:
    """The evaluation whose weights are the best: the lowest validation error, and among equal ones the last."""
    return min(rows, key=lambda row: (row.val_error, -row.step))


def stalled(rows: Sequence[Row]) -> int:
    """How many evaluations there have been since that with the lowest validation error, or the first of these."""
    errors = [row.val_error for row in rows]
    return len(rows) - 1 - errors.index(min(errors))


def summary(row: Row) -> str:
    """A row as a line of the log."""
    if row.multi_label:
        return (
            f"epoch {row.epoch:.4g}: training loss {row.train_loss:.3f}, {100 * row.train_error:.1f} % wrong; "
            f"validation loss {row.val_loss:.3f}, mAP {100 * (1 - row.val_error):.1f} %; "
            f"{row.images_per_s:.0f} images/s"
        )
    return (
        f"epoch {row.epoch:.4g}: training loss {row.train_loss:.3f}, error {100 * row.train_error:.1f} %; "
        f"validation loss {row.val_loss:.3f}, error {100 * row.val_error:.1f} % "
        f"(top-5 {100 * row.val_top5_error:.1f} %); {row.images_per_s:.0f} images/s"
    )


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Writes all of `metrics.csv` anew, so that it agrees with the checkpoint that is written with it.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    write_atomically(folder / METRICS_FILE, text.getvalue().encode())


def read_history(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`.

    Raises:
        InputError: it is missing, or not a file of `write_history`.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        return [Row(int(line["step"]), *(float(line[name]) for name in Row._fields[1:])) for line in lines]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give the folder of a run of `train`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not the metrics.csv of a run ({error}): restore it or train again") from error


class TensorBoard:
    """The rows as TensorBoard events, in the run's folder.

    A resumed run writes all events anew: a killed run may have written some that are later than its last checkpoint.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
        self.writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        for name, value in row._asdict().items():
            if name == "val_top5_error" and row.multi_label:
                continue
            if name.startswith(("train_", "val_")):  # grouped by metric, so that both curves share a chart
                part, _, metric = name.partition("_")
                self.writer.add_scalar(f"{metric}/{part}", value, row.step)
            elif name not in ("step", "seconds"):
                self.writer.add_scalar(f"run/{name}", value, row.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
