"""Evaluates a finished run on multi-label images and writes its report."""

from __future__ import annotations

from collections.abc import Sequence

from model_export.evaluation.multi_label import accuracy_of, evaluate_multi_label
from model_export.report.finished_run import load_best, save_best, summary_of
from model_export.report.multi_label_mistakes_page import write_multi_label_mistakes
from model_export.report.multi_label_page import write_multi_label_report
from model_export.report.plots import save_png, training_curves
from model_export.training.history import Row, best_row
from model_export.training.recipe import describe
from model_export.training.trainer import Trainer
from service.runtime.measured import MultiLabelAccuracy


def report_multi_label_run(trainer: Trainer, rows: Sequence[Row]) -> MultiLabelAccuracy:
    """As `report_run`, which see.

    Raises:
        InputError: an image has become unreadable since the training, or no image to measure on has a class.
        OSError: a file cannot be written.
    """
    loaded, predictor = load_best(trainer)
    evaluation = evaluate_multi_label(predictor, trainer.data.held_out)
    accuracy = accuracy_of(evaluation)
    save_best(trainer, loaded, accuracy)
    architecture = trainer.net.architecture
    save_png(training_curves(rows, f"{architecture.name}, {trainer.recipe.name}"), trainer.folder / "curves.png")
    write_multi_label_report(
        trainer.folder / "report.html",
        title=f"{architecture.name} on {trainer.data.train.name}",
        summary=summary_of(trainer, rows),
        recipe=describe(trainer.recipe),
        rows=rows,
        evaluation=evaluation,
    )
    write_multi_label_mistakes(trainer.folder / "mistakes.html", evaluation, trainer.data.held_out)
    best = best_row(rows)
    part = "val" if trainer.data.test is None else "test"
    trainer.callbacks.on_run_end(
        {
            "best_epoch": best.epoch,
            "best_val_error": best.val_error,
            f"{part}_mean_average_precision": accuracy.mean_average_precision,
            f"{part}_macro_f1": accuracy.macro_f1,
        }
    )
    return accuracy
