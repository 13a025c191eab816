"""What a training measured, one row per evaluation: `metrics.csv` and TensorBoard events."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.tensorboard import SummaryWriter

from model_export.disk import write_whole
from model_export.errors import InputError

METRICS_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


class Row(NamedTuple):
    """Training figures are means since the row before, over augmented images; errors are fractions."""

    step: int  # optimiser steps done
    epoch: float  # passes over the training set done
    lr: float  # of the last step
    train_loss: float
    train_error: float
    val_loss: float
    val_error: float
    val_top5_error: float
    images_per_s: float  # training alone, without evaluation
    seconds: float  # of work since the start of the run, resumed parts included


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Writes `metrics.csv` whole, so that it never disagrees with the checkpoint it is written beside.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    write_whole(folder / METRICS_FILE, text.getvalue().encode())


def read_history(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`.

    Raises:
        InputError: it is missing, or no file of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        return [Row(int(line["step"]), *(float(line[name]) for name in Row._fields[1:])) for line in lines]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give the folder of a run that `train` has made") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not the metrics.csv of a run ({error}): restore it or train again") from error


class TensorBoard:
    """The rows as TensorBoard events, beside the run's other files.

    Events of an earlier part of the run are written anew: a killed run may have written some that its last checkpoint
    does not know.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
        self.writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        for name, value in row._asdict().items():
            if name.startswith(("train_", "val_")):  # grouped by figure, so that both curves share a picture
                part, _, figure = name.partition("_")
                self.writer.add_scalar(f"{figure}/{part}", value, row.step)
            elif name not in ("step", "seconds"):
                self.writer.add_scalar(f"run/{name}", value, row.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
