"""`python -m model_export evaluate MODEL ...`: how well models do on a data set, beside the published figures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from model_export.cli.options import (
    add_layout,
    check_writable,
    layout_of,
    path,
    positive,
    refuse,
    refuse_of_other_data,
    seed,
    version_of,
)
from model_export.datasets.base import Dataset
from model_export.datasets.folder import OnBroken, open_folder, open_images
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.opening import is_folder, open_data
from model_export.errors import InputError
from model_export.evaluation.calibration import calibrate
from model_export.evaluation.evaluating import ensemble, evaluate
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
    weakest_classes,
)
from model_export.evaluation.paper import kind_of, published
from model_export.evaluation.predictors import Device, OnnxPredictor, Predictor, TorchPredictor
from model_export.evaluation.recording import accuracy_of, record, write_files
from model_export.evaluation.result import Evaluation, Method
from model_export.weights import Family, Loaded, ShortcutOption, load_file
from service.card import Architecture, Calibration, Published, Variant
from service.providers import PrecisionChoice, ProviderChoice

log = logging.getLogger(__name__)

OF_WEIGHT_FILES = ("depth", "family", "variant", "shortcut", "labels", "device")
OF_PUBLISHED_MODELS = ("version", "provider", "precision")
LINES = 5  # of the classes that do worst, and of confusions


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Measure how well models recognise the images of a data set; of several, also their ensemble."
    sub = commands.add_parser("evaluate", help=text, description=text)
    sub.set_defaults(run=run)
    sub.add_argument(
        "models", nargs="+", metavar="MODEL", help="a .pth or .safetensors file, or the name of a published model"
    )
    sub.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="a folder of images, one folder per class (its val/ if it has train/ and val/), cifar10 or drawings",
    )
    sub.add_argument(
        "--val-share",
        type=float,
        help="of a folder without val/: take only the share that `train` has set aside (default: all images)",
    )
    sub.add_argument("--seed", type=seed, help="with which `train` has split that folder (default: 0)")
    sub.add_argument(
        "--method",
        choices=get_args(Method),
        default="1-crop",
        help="1-crop: as served; 10-crop: four corners, the centre and their mirror images; multi-scale: the whole "
        "image at five scales (default: 1-crop)",
    )
    sub.add_argument("--models-dir", type=path, default=Path("models"), help="the model folder (default: models)")
    sub.add_argument("--version", type=int, help="of published models (default: the latest)")
    sub.add_argument("--provider", choices=get_args(ProviderChoice), help="of published models (default: auto)")
    sub.add_argument(
        "--precision",
        choices=get_args(PrecisionChoice),
        help="of published models: auto is what the service would take (default: auto)",
    )
    sub.add_argument("--device", choices=get_args(Device), help="of weight files (default: cpu)")
    sub.add_argument("--batch-size", type=positive, default=32, help="images computed at once (default: 32)")
    for option, choices in (("family", Family), ("variant", Variant), ("shortcut", ShortcutOption)):
        sub.add_argument(f"--{option}", choices=get_args(choices), help="of weight files that do not record it")
    sub.add_argument("--depth", type=int, help="of weight files that do not record it")
    sub.add_argument("--labels", type=path, help="class names of weight files: .txt, .json, .tsv or .csv")
    sub.add_argument("--calibrate", action="store_true", help="fit a temperature, so that confidence equals accuracy")
    sub.add_argument(
        "--record", action="store_true", help="write accuracy and calibration into the cards of published models"
    )
    sub.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="write evaluation.json, predictions.csv and report.html there",
    )
    sub.add_argument("--broken", choices=get_args(OnBroken), help="what to do with broken images (default: refuse)")
    add_layout(sub)


def run(args: argparse.Namespace) -> int:
    """Prints the figures, then writes what was asked for."""
    refuse_of_other_data(args)
    if args.out:
        check_writable(args.out)
    if args.val_share is None:
        refuse(args, ("seed",), "the part of a folder that --val-share takes")
    models = [find_model(name, args) for name in args.models]
    if not any(isinstance(model, Path) for model in models):
        refuse(args, OF_WEIGHT_FILES, "weight files")
    if not any(isinstance(model, Published) for model in models):
        refuse(args, OF_PUBLISHED_MODELS, "published models")
    if args.record:
        check_recordable(models, args.method)
    predictors = [open_predictor(model, args) for model in models]
    dataset = open_dataset(args.data, args.broken or "refuse", args.val_share, args.seed or 0, layout_of(args))

    evaluations = [
        evaluate(predictor, dataset, method=args.method, batch_size=args.batch_size) for predictor in predictors
    ]
    shown = list(evaluations)
    if len(evaluations) > 1:
        try:
            shown.append(ensemble(evaluations))
        except InputError as error:
            log.warning("no ensemble: %s", error)
    print(f"{args.method} on {dataset.name}, {len(dataset)} images\n")
    print_figures(shown)
    print_published([predictor.architecture for predictor in predictors], args.method, dataset)
    print_mistakes(shown[-1])

    calibrations = [calibration_of(evaluation) if args.calibrate else None for evaluation in evaluations]
    for evaluation, c in zip(evaluations, calibrations, strict=True):
        if c is None:
            continue
        print(
            f"\n{evaluation.model}: temperature {c.temperature:.3f}; on the half it was not fitted on, it brings the "
            f"calibration error from {100 * c.ece_before:.2f} to {100 * c.ece_after:.2f} %"
        )
    if args.out:
        write_files(args.out, dataset, shown, calibrations)
        from model_export.report.page import write_report  # brings matplotlib, which only reports need

        write_report(
            args.out / "report.html",
            title=f"{shown[-1].model} on {dataset.name}",
            summary=[("method", args.method)],
            recipe=[],
            rows=[],
            evaluation=shown[-1],
            dataset=dataset,
        )
        log.info("written to %s: evaluation.json, predictions.csv and report.html", args.out)
    if args.record:
        for i, model in enumerate(models):
            assert isinstance(model, Published)  # check_recordable
            record(model.path, accuracy_of(evaluations[i]), calibrations[i])
            log.info("%s %d: recorded; a running service shows it after a restart", model.name, model.version)
    return 0


def calibration_of(evaluation: Evaluation) -> Calibration | None:
    """Its calibration; None, with a warning, where it cannot be had: the other figures are as good without."""
    try:
        return calibrate(evaluation)
    except InputError as error:
        log.warning("no calibration: %s", error)
        return None


def find_model(name: str, args: argparse.Namespace) -> Path | Published:
    """What MODEL means: a file of weights if there is one, else a published model.

    Raises:
        InputError: it is neither, or has no such version.
    """
    if (path := Path(name)).is_file():
        return path
    try:
        return version_of(args.models_dir, name, args.version)
    except InputError as error:
        raise InputError(f"{name} is no file of weights, and {error}") from error


def check_recordable(models: Sequence[Path | Published], method: Method) -> None:
    """Raises InputError where what is measured is not what a service with that card would do."""
    if files := [str(model) for model in models if isinstance(model, Path)]:
        raise InputError(f"--record writes into the cards of published models, {files[0]} has none: export it first")
    if method != "1-crop":
        raise InputError(f"--record is for the answers as they are served, not for {method}: leave --method out")


def open_dataset(spec: str, broken: OnBroken, val_share: float | None, seed: int, layout: Layout = AUTO) -> Dataset:
    """The images that `--data` means: those kept for validation where the data set has such a part."""
    if not is_folder(spec):
        return open_data(spec).val
    if val_share is not None:
        return open_folder(Path(spec), val_share=val_share, seed=seed, broken=broken, layout=layout).val
    return open_images(Path(spec), broken=broken, layout=layout)


def open_predictor(model: Path | Published, args: argparse.Namespace) -> Predictor:
    if isinstance(model, Published):
        return OnnxPredictor(model, args.provider or "auto", args.precision or "auto")
    return TorchPredictor(load_checkpoint(model, args), str(model), args.device or "cpu")


def load_checkpoint(path: Path, args: argparse.Namespace) -> Loaded:
    return load_file(
        path,
        depth=args.depth,
        family=args.family,
        variant=args.variant,
        shortcut=args.shortcut,
        labels=args.labels,
    )


def print_figures(evaluations: Sequence[Evaluation]) -> None:
    """A table: accuracy, error and calibration error in percent, likelihood in nats."""
    rows = [("MODEL", "TOP-1", "TOP-5", "TOP-1 ERROR", "TOP-5 ERROR", "IMAGES", "NLL", "ECE")]
    for evaluation in evaluations:
        top1, top5 = (100 * top_k_accuracy(evaluation, k) for k in (1, 5))
        rows.append(
            (
                evaluation.model,
                f"{top1:.2f} %",
                f"{top5:.2f} %",
                f"{100 - top1:.2f} %",
                f"{100 - top5:.2f} %",
                str(len(evaluation.labels)),
                f"{negative_log_likelihood(evaluation):.4f}",
                f"{100 * expected_calibration_error(evaluation):.2f} %",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join((name.ljust(widths[0]), *aligned)))


def print_published(architectures: Sequence[Architecture], method: Method, dataset: Dataset) -> None:
    """The published figures of these networks, where there are any that compare."""
    kind = kind_of(dataset.classes)
    for architecture in dict.fromkeys(architectures):
        if figure := published(architecture, method, kind):
            top5 = "" if figure.top5 is None else f", top-5 error {figure.top5:.2f} %"
            print(f"published for {architecture.name}: top-1 error {figure.top1:.2f} %{top5} ({figure.source})")


def print_mistakes(evaluation: Evaluation) -> None:
    """The classes that do worst, and what is taken for what."""
    names = evaluation.classes
    accuracy, images = per_class_accuracy(evaluation), confusion_matrix(evaluation).sum(axis=1)
    if weakest := weakest_classes(evaluation, LINES):
        print(f"\nleast recognised ({evaluation.model}):")
        for i in weakest:
            print(f"  {names[i]}: {100 * accuracy[i]:.1f} % of {images[i]}")
    if confused := most_confused(evaluation, LINES):
        print("\nmost often confused:")
        for confusion in confused:
            print(f"  {names[confusion.true]} taken for {names[confusion.predicted]}: {confusion.images}")
