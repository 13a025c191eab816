"""What `evaluate` does with multi-label models: figures, calibration, thresholds, files and the record."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import numpy as np

from model_export.cli.evaluation_fits import fitted_calibration, with_mean
from model_export.cli.table import text_table
from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.evaluation.average_precision import mean_average_precision
from model_export.evaluation.calibration import calibrate_multi_label
from model_export.evaluation.ensembles import ensemble_multi_label
from model_export.evaluation.multi_label import (
    MultiLabelEvaluation,
    accuracy_of,
    best_thresholds,
    class_scores,
    classwise_calibration_error,
    evaluate_multi_label,
    fit_thresholds,
    macro_f1,
    micro_f1,
)
from model_export.evaluation.multi_label_recording import write_multi_label_files
from model_export.evaluation.predictors import OnnxPredictor, Predictor
from model_export.export.record import publish_record
from service.runtime.model_folder import ModelVersion

log = logging.getLogger(__name__)

HEADER = ("MODEL", "mAP", "MICRO F1", "MACRO F1", "IMAGES", "CLASSWISE ECE")
CLASS_HEADER = ("CLASS", "IMAGES", "AVG PRECISION", "PRECISION", "RECALL", "F1", "THRESHOLD", "BEST THRESHOLD")
MOST_CLASSES = 20  # of the weakest classes


def run_multi_label(
    args: argparse.Namespace,
    models: Sequence[object],
    predictors: Sequence[Predictor],
    dataset: Dataset,
    latest: dict[str, int],
) -> int:
    """
    Args:
        latest: as of `latest_numbers`, before the models were looked up; for `--record`.

    Raises:
        InputError: an option is not for multi-label models, or the data or another model is not multi-label.
    """
    if args.reject_above_error is not None:
        raise InputError(
            "--reject-above-error only applies to models with a softmax head: a multi-label model may name no class, "
            "which is an answer, too. Leave it out; --fit-thresholds fits from which probability on a class is named"
        )
    evaluations = [
        evaluate_multi_label(predictor, dataset, method=args.method, batch_size=args.batch_size)
        for predictor in predictors
    ]
    accuracies = [accuracy_of(evaluation) for evaluation in evaluations]  # which refuses images without any class
    with_ensemble = with_mean(evaluations, ensemble_multi_label)
    print(f"{args.method} on {dataset.name}, {len(dataset)} images\n")
    print(_figures(with_ensemble))
    print(f"\n{_class_table(with_ensemble[-1])}")
    calibrations = [fitted_calibration(each, calibrate_multi_label) if args.calibrate else None for each in evaluations]
    served = [
        evaluation.at_temperature(calibration.temperature) if calibration else evaluation
        for evaluation, calibration in zip(evaluations, calibrations, strict=True)
    ]
    fitted = [_fitted(evaluation) if args.fit_thresholds else None for evaluation in served]
    if args.out:
        from model_export.report.multi_label_mistakes_page import write_multi_label_mistakes
        from model_export.report.multi_label_page import write_multi_label_report  # imports matplotlib

        write_multi_label_files(args.out, dataset, with_ensemble, calibrations)
        write_multi_label_report(
            args.out / "report.html",
            title=f"{with_ensemble[-1].model} on {dataset.name}",
            summary=[("method", args.method)],
            recipe=[],
            rows=[],
            evaluation=with_ensemble[-1],
        )
        write_multi_label_mistakes(args.out / "mistakes.html", with_ensemble[-1], dataset)
        log.info("%s: wrote evaluation.json, predictions.csv, report.html and mistakes.html", args.out)
    if args.record:
        for model, predictor, accuracy, calibration, evaluation, fit in zip(
            models, predictors, accuracies, calibrations, served, fitted, strict=True
        ):
            assert isinstance(model, ModelVersion)  # see check_recordable
            assert isinstance(predictor, OnnxPredictor)
            if fit is not None:
                accuracy = accuracy_of(fit)
            info = predictor.engine.info
            accuracy = accuracy.model_copy(update={"provider": info.provider, "precision": info.precision})
            # Thresholds are of calibrated probabilities: a new temperature moves those that the model has.
            own = predictor.head.thresholds and evaluation.thresholds.tolist()
            thresholds = own if fit is None else fit.thresholds.tolist()
            known = latest.get(model.name)
            card = publish_record(model, accuracy, calibration=calibration, thresholds=thresholds, latest=known)
            latest[model.name] = card.version  # another version of this model may be recorded next
            log.info("%s %d: recorded, as version %d with the same files", model.name, model.version, card.version)
    return 0


def _fitted(evaluation: MultiLabelEvaluation) -> MultiLabelEvaluation | None:
    """The half that the thresholds were not fitted on, with them; None, with a warning, if they cannot be fitted."""
    try:
        thresholds, held_out = fit_thresholds(evaluation)
    except InputError as error:
        log.warning("no thresholds: %s", error)
        return None
    after = held_out.with_thresholds(thresholds)
    print(
        f"\n{evaluation.model}: thresholds from {thresholds.min():.3f} to {thresholds.max():.3f}; on the half of the "
        f"images that they were not fitted on, macro F1 {100 * macro_f1(held_out):.2f} % before, "
        f"{100 * macro_f1(after):.2f} % after"
    )
    return after


def _figures(evaluations: Sequence[MultiLabelEvaluation]) -> str:
    rows: list[tuple[str, ...]] = [HEADER]
    for evaluation in evaluations:
        precision = mean_average_precision(evaluation.present, evaluation.probabilities)
        shares = (precision, micro_f1(evaluation), macro_f1(evaluation))
        error = f"{100 * classwise_calibration_error(evaluation):.2f} %"
        images = str(len(evaluation.present))
        rows.append((evaluation.model, *(f"{100 * share:.2f} %" for share in shares), images, error))
    return text_table(rows, right=range(1, len(HEADER)))


def _class_table(evaluation: MultiLabelEvaluation) -> str:
    """The scores of the classes that have images, the lowest average precision first; at most `MOST_CLASSES`."""
    scores, best = class_scores(evaluation), best_thresholds(evaluation)
    images = evaluation.present.sum(axis=0)
    weakest = [int(i) for i in np.argsort(scores.average_precision, kind="stable") if images[i]]  # NaN comes last
    rows: list[tuple[str, ...]] = [CLASS_HEADER]
    for i in weakest[:MOST_CLASSES]:
        shares = ("-" if np.isnan(values[i]) else f"{100 * values[i]:.1f} %" for values in scores)
        thresholds = (f"{values[i]:.3f}" for values in (evaluation.thresholds, best))
        rows.append((evaluation.classes[i], str(images[i]), *shares, *thresholds))
    shown = f"the {MOST_CLASSES} weakest classes" if len(weakest) > MOST_CLASSES else "every class"
    return f"{shown} ({evaluation.model}):\n{text_table(rows, right=range(1, len(CLASS_HEADER)))}"
