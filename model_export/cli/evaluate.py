"""The `evaluate` command: measures the accuracy of models on a data set."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from model_export.cli.data_options import add_folds, add_layout, fold_of, layout_of, refuse_folder_options
from model_export.cli.evaluate_multi_label import run_multi_label
from model_export.cli.evaluation_fits import fitted_calibration, with_mean
from model_export.cli.evaluation_text import class_table, figures_table, mistakes, reported_figures
from model_export.cli.options import (
    MEANING_OF_REFERENCE,
    REFERENCE,
    add_models_dir,
    check_writable,
    path,
    positive,
    refuse,
    seed,
    share,
)
from model_export.cli.weight_options import add_network_options, load_weight_file
from model_export.datasets.checking import OnBroken
from model_export.errors import InputError
from model_export.evaluation.calibration import calibrate
from model_export.evaluation.ensembles import ensemble
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.images import evaluation_images
from model_export.evaluation.predictors import Device, OnnxPredictor, Predictor, TorchPredictor
from model_export.evaluation.recording import accuracy_of, write_evaluation_files
from model_export.evaluation.rejection import fit_rejection
from model_export.evaluation.result import Evaluation, Method
from model_export.export.record import check_latest, check_rejection_fits, publish_record
from model_export.versions import find_version, latest_numbers
from model_export.weights.file_kinds import explain_folder
from service.runtime.choices import PrecisionChoice, ProviderChoice
from service.runtime.measured import Calibration, Rejection
from service.runtime.model_folder import ModelVersion

log = logging.getLogger(__name__)

WEIGHT_FILE_OPTIONS = ("depth", "family", "variant", "shortcut", "labels", "device")
PUBLISHED_MODEL_OPTIONS = ("provider", "precision")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"a .pth or .safetensors file, or {REFERENCE}, {MEANING_OF_REFERENCE}",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="images to evaluate on: a folder with CLASS/*.jpg, or with test/CLASS/*.jpg or val/CLASS/*.jpg; for "
        "multi-label models, with a labels.csv there; cifar10; drawings",
    )
    parser.add_argument(
        "--method",
        choices=get_args(Method),
        default="1-crop",
        help="1-crop: as the service does; 10-crop: four corners, the centre and their mirror images; multi-scale: the "
        "whole image at five scales (default: 1-crop)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="images computed at once (default: 32)")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit the temperature at which probabilities match how often they are right",
    )
    parser.add_argument(
        "--reject-above-error",
        type=share,
        metavar="ERROR",
        help="fit the probability below which no class is answered, so that at most this share of the answers is "
        "wrong, from 0 to 1",
    )
    parser.add_argument(
        "--fit-thresholds",
        action="store_true",
        default=None,
        help="fit the probability of each class from which on a multi-label model answers with it (highest F1)",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="publish accuracy and all that was fitted as the next version of published models, with the same files",
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="folder to write evaluation.json, predictions.csv, report.html and mistakes.html to",
    )

    folder = parser.add_argument_group("for a folder of images")
    folder.add_argument(
        "--val-share",
        type=float,
        help="evaluate on the share that `train --val-share` kept for validation (default: on all images)",
    )
    add_folds(folder)
    folder.add_argument("--seed", type=seed, help="the --seed of that `train` (default: 0)")
    folder.add_argument("--broken", choices=get_args(OnBroken), help="what to do with broken images (default: refuse)")
    add_layout(folder)

    published = parser.add_argument_group("for published models")
    add_models_dir(published)
    published.add_argument("--provider", choices=get_args(ProviderChoice), help="execution provider (default: auto)")
    published.add_argument(
        "--precision",
        choices=get_args(PrecisionChoice),
        help="precision to compute in; auto: as the service chooses (default: auto)",
    )

    file = parser.add_argument_group("for weight files", "not needed for what the file records")
    add_network_options(file, family="(default: imagenet)", variant="; never guessed")
    file.add_argument("--labels", type=path, help="file of class names: .txt, .json, .tsv or .csv")
    file.add_argument("--device", choices=get_args(Device), help="where PyTorch computes (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Prints the figures, then writes the files and cards that were asked for."""
    refuse_folder_options(args)
    if args.out:
        check_writable(args.out)
    fold = fold_of(args)
    if args.val_share is None and fold is None:
        refuse(args, ("seed",), "--val-share and --folds")
    latest = latest_numbers(args.models_dir) if args.record else {}  # first: meanwhile, others may publish
    models = [find_model(name, args) for name in args.models]
    if not any(isinstance(model, Path) for model in models):
        refuse(args, WEIGHT_FILE_OPTIONS, "weight files")
    if not any(isinstance(model, ModelVersion) for model in models):
        refuse(args, PUBLISHED_MODEL_OPTIONS, "published models")
    if args.record:
        check_recordable(models, args)
    predictors = [open_predictor(model, args) for model in models]
    dataset = evaluation_images(
        args.data,
        broken=args.broken or "refuse",
        val_share=args.val_share,
        seed=args.seed or 0,
        fold=fold,
        layout=layout_of(args),
    )
    if any(predictor.head.multi_label for predictor in predictors):
        return run_multi_label(args, models, predictors, dataset, latest)
    refuse(args, ("fit_thresholds",), "multi-label models")

    evaluations = [
        evaluate(predictor, dataset, method=args.method, batch_size=args.batch_size) for predictor in predictors
    ]
    with_ensemble = with_mean(evaluations, ensemble)
    print(f"{args.method} on {dataset.name}, {len(dataset)} images\n")
    print(figures_table(with_ensemble))
    for line in reported_figures([predictor.architecture for predictor in predictors], args.method, dataset.classes):
        print(line)
    print(f"\n{class_table(with_ensemble[-1])}")
    print(mistakes(with_ensemble[-1]), end="")

    calibrations = [fitted_calibration(each, calibrate) if args.calibrate else None for each in evaluations]
    rejections = [
        None if args.reject_above_error is None else rejection_of(evaluation, calibration, args)
        for evaluation, calibration in zip(evaluations, calibrations, strict=True)
    ]
    for evaluation, rejection in zip(evaluations, rejections, strict=True):
        if rejection:
            print(
                f"\n{evaluation.model}: no answer below a probability of {rejection.threshold:.3f}; on the half of the "
                f"images that it was not fitted on, {100 * rejection.coverage:.2f} % are answered, "
                f"{100 * rejection.error:.2f} % of these wrongly instead of {100 * rejection.error_without:.2f} %"
            )
    if args.out:
        from model_export.report.mistakes_page import write_mistakes
        from model_export.report.page import write_report  # imports matplotlib, which only reports need

        write_evaluation_files(args.out, dataset, with_ensemble, calibrations, rejections)
        write_report(
            args.out / "report.html",
            title=f"{with_ensemble[-1].model} on {dataset.name}",
            summary=[("method", args.method)],
            recipe=[],
            rows=[],
            evaluation=with_ensemble[-1],
            dataset=dataset,
        )
        write_mistakes(args.out / "mistakes.html", with_ensemble[-1], dataset)
        log.info("%s: wrote evaluation.json, predictions.csv, report.html and mistakes.html", args.out)
    if args.record:
        for model, predictor, evaluation, calibration, rejection in zip(
            models, predictors, evaluations, calibrations, rejections, strict=True
        ):
            assert isinstance(model, ModelVersion)  # see check_recordable
            assert isinstance(predictor, OnnxPredictor)
            info = predictor.engine.info
            accuracy = accuracy_of(evaluation, info.provider, info.precision)
            known = latest.get(model.name)
            card = publish_record(model, accuracy, calibration=calibration, rejection=rejection, latest=known)
            latest[model.name] = card.version  # another version of this model may be recorded next
            log.info("%s %d: recorded, as version %d with the same files", model.name, model.version, card.version)
    return 0


def find_model(name: str, args: argparse.Namespace) -> Path | ModelVersion:
    """The weight file of this name if there is one, else the version of a published model that it means.

    Raises:
        InputError: it is neither, or the model has no such version.
    """
    if (path := Path(name)).is_file():
        return path
    try:
        return find_version(args.models_dir, name)
    except InputError as error:
        if path.is_dir():
            raise InputError(f"{explain_folder(path)}, or the name of a published model") from error
        raise InputError(f"{name} is not a weight file, and {error}") from error


def check_recordable(models: Sequence[Path | ModelVersion], args: argparse.Namespace) -> None:
    """Raises InputError if the figures would not be those of a served model, or have no place to be recorded in."""
    if files := [str(model) for model in models if isinstance(model, Path)]:
        raise InputError(f"--record publishes versions of published models, {files[0]} is none: export it first")
    if args.method != "1-crop":
        raise InputError(f"--record needs accuracy as served, which {args.method} is not: leave --method out")
    for model in models:
        assert isinstance(model, ModelVersion)
        check_latest(model)
        if args.calibrate and args.reject_above_error is None:
            check_rejection_fits(model)


def open_predictor(model: Path | ModelVersion, args: argparse.Namespace) -> Predictor:
    if isinstance(model, ModelVersion):
        return OnnxPredictor(model, args.provider or "auto", args.precision or "auto")
    loaded = load_weight_file(model, args)
    return TorchPredictor(loaded, str(model), args.device or "cpu")


def rejection_of(evaluation: Evaluation, calibration: Calibration | None, args: argparse.Namespace) -> Rejection | None:
    """The rejection for the probabilities as they will be served; None, with a warning, if there can be none."""
    served = evaluation.at_temperature(calibration.temperature) if calibration else evaluation
    try:
        return fit_rejection(served, args.reject_above_error)
    except InputError as error:
        log.warning("no rejection: %s", error)
        return None
