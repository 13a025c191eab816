"""Evaluates a finished training run and writes its report."""

from __future__ import annotations

from collections.abc import Sequence

from model_export.datasets.base import Data
from model_export.evaluation.class_scores import macro_f1
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.metrics import top_k_accuracy
from model_export.evaluation.predictors import TorchPredictor
from model_export.evaluation.recording import accuracy_of
from model_export.evaluation.result import Evaluation
from model_export.report.mistakes_page import write_mistakes
from model_export.report.page import write_report
from model_export.report.plots import save_png, training_curves
from model_export.training import checkpoint
from model_export.training.history import Row, best_row
from model_export.training.recipe import describe
from model_export.training.trainer import Trainer
from model_export.weights.loading import Loaded, load_file
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.measured import Accuracy, MultiLabelAccuracy


def report_run(trainer: Trainer, rows: Sequence[Row]) -> Evaluation:
    """Evaluates a run's best weights as they will be served, and writes `curves.png` and two pages to its folder.

    They are evaluated on the test part, which the run has not looked at before; without one, on the validation part,
    which has chosen them. The accuracy is recorded in the file of the best weights, from which `export` takes it into
    the model card. The callbacks of the run are told its end.

    Args:
        trainer: the run, at its end.
        rows: the history of the run; at least one row.

    Raises:
        InputError: an image has become unreadable since the training.
        OSError: a file cannot be written.
    """
    evaluation = _evaluate_best(trainer)
    architecture = trainer.net.architecture
    curves = training_curves(rows, f"{architecture.name}, {trainer.recipe.name}")
    save_png(curves, trainer.folder / "curves.png")
    best = best_row(rows)
    write_report(
        trainer.folder / "report.html",
        title=f"{architecture.name} on {trainer.data.train.name}",
        summary=summary_of(trainer, rows),
        recipe=describe(trainer.recipe),
        rows=rows,
        evaluation=evaluation,
        dataset=trainer.data.held_out,
    )
    write_mistakes(trainer.folder / "mistakes.html", evaluation, trainer.data.held_out)
    part = "val" if trainer.data.test is None else "test"
    trainer.callbacks.on_run_end(
        {
            "best_epoch": best.epoch,
            "best_val_error": best.val_error,
            f"{part}_top1": top_k_accuracy(evaluation, 1),
            f"{part}_macro_f1": macro_f1(evaluation),
        }
    )
    return evaluation


def summary_of(trainer: Trainer, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Names and values for the top of the report."""
    best = best_row(rows)
    return [
        ("best epoch", f"{best.epoch:.4g} of {rows[-1].epoch:.4g}"),
        ("training images", str(len(trainer.data.train))),
        *accuracy_rows(trainer.data, best),
        ("time", f"{rows[-1].seconds / 60:.1f} min, {rows[-1].images_per_s:.0f} images/s"),
        *((name, str(value)) for name, value in trainer.about.items() if value is not None),
    ]


def accuracy_rows(data: Data, best: Row) -> list[tuple[str, str]]:
    """What the accuracy on the page was measured on, and what the best weights were chosen by."""
    chosen = f"{len(data.val)} images, {data.val.name}"
    if data.test is None:
        remark = "these images have chosen the weights, so it may be a little too good; a test part would tell"
        return [("chosen by", chosen), ("accuracy", f"of the same images: {remark}")]
    return [
        ("chosen by", f"{chosen}: {'mAP' if best.multi_label else 'top-1'} {100 * (1 - best.val_error):.2f}%"),
        ("accuracy", f"of {len(data.test)} images, {data.test.name}, used once, after the training"),
    ]


def _evaluate_best(trainer: Trainer) -> Evaluation:
    """Evaluates the best weights and writes them again, with their accuracy in the file's record."""
    loaded, predictor = load_best(trainer)
    evaluation = evaluate(predictor, trainer.data.held_out)
    save_best(trainer, loaded, accuracy_of(evaluation))
    return evaluation


def load_best(trainer: Trainer) -> tuple[Loaded, TorchPredictor]:
    """A run's best weights, on its device, with batch norms as at the end of the run (`recompute_bn`)."""
    path = trainer.folder / checkpoint.BEST
    loaded = load_file(path)
    if trainer.state.best.kept[0][0] < trainer.plan.steps:  # the last weights have them already
        trainer.recompute_batch_norms(loaded.net.to(trainer.device))
    return loaded, TorchPredictor(loaded, str(path), "cuda" if trainer.device.type == "cuda" else "cpu")


def save_best(trainer: Trainer, loaded: Loaded, accuracy: Accuracy | MultiLabelAccuracy) -> None:
    """Writes the best weights again, with their accuracy in the file's record."""
    record = Record(
        architecture=loaded.net.architecture,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
        accuracy=accuracy,
        training=loaded.training,
        head=loaded.head,
    )
    save_safetensors(loaded.net.state_dict(), trainer.folder / checkpoint.BEST, record, loaded.mean_image)
