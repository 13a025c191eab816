"""`metrics.csv` and TensorBoard events, read back."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model_export.errors import InputError
from model_export.training.checkpoint import BestWeights
from model_export.training.history import Row, TensorBoard, best_row, read_history, stalled, summary, write_history
from model_export.weights.record import Record

ROWS = [Row(10 * i, i, 0.1 / i, 2.0 / i, 0.5 / i, 2.5 / i, 0.6 / i, 0.1, 1234.5, 7.25 * i) for i in (1, 2, 3)]


def test_rows_are_read_back(tmp_path: Path) -> None:
    write_history(tmp_path, ROWS[:1])
    write_history(tmp_path, ROWS)
    assert [tuple(row) for row in read_history(tmp_path / "metrics.csv")] == [
        pytest.approx(tuple(row), rel=1e-5) for row in ROWS
    ]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(Row._fields)


@pytest.mark.parametrize("content", ["step,epoch\n1,2\n", "step,epoch,lr\nx,y,z\n"])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(InputError, match=r"is not the metrics\.csv of a run"):
        read_history(tmp_path / "metrics.csv")
    with pytest.raises(InputError, match="does not exist"):
        read_history(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("errors", "expected"), [([0.5], 0), ([0.5, 0.4], 0), ([0.4, 0.5, 0.4], 2), ([0.5, 0.4, 0.6], 1)]
)
def test_epochs_without_a_lower_error(errors: list[float], expected: int) -> None:
    assert stalled([ROWS[0]._replace(val_error=error) for error in errors]) == expected


@pytest.mark.parametrize(("errors", "expected"), [([0.5], 1), ([0.4, 0.5, 0.4], 3), ([0.5, 0.4, 0.6], 2)])
def test_the_best_evaluation_is_that_of_the_best_weights(errors: list[float], expected: int, tmp_path: Path) -> None:
    rows = [row._replace(val_error=error) for row, error in zip(ROWS, errors, strict=False)]
    assert best_row(rows).epoch == expected
    kept = BestWeights(tmp_path, 1)
    for row in rows:
        kept.offer(row.step, row.val_error, {"w": torch.zeros(1)}, Record(), None)
    assert kept.kept[0][0] == best_row(rows).step


def test_tensorboard_shows_each_row_once(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, [])
    first.add(ROWS[0])
    first.add(ROWS[1])  # killed before the checkpoint of this row was written
    first.close()
    resumed = TensorBoard(tmp_path, ROWS[:1])
    resumed.add(ROWS[1])
    resumed.add(ROWS[2])
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss/train", "loss/val", "error/train", "error/val", "top5_error/val", "run/epoch", "run/lr",
        "run/images_per_s",
    }  # fmt: skip
    assert [(event.step, event.value) for event in events.Scalars("error/val")] == [
        (row.step, pytest.approx(row.val_error)) for row in ROWS
    ]


def test_a_row_is_summarised_in_a_line() -> None:
    assert summary(ROWS[1]) == (
        "epoch 2: training loss 1.000, error 25.0 %; validation loss 1.250, error 30.0 % (top-5 10.0 %); 1234 images/s"
    )
