"""From a published fp32 file to a version that also has one of lower precision, all or nothing."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from model_export.datasets.base import Data, Dataset
from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor
from model_export.onnx_export import ExportError
from model_export.progress import Progress
from model_export.publish import next_version, publish_folder, staging_folder
from model_export.quantise import gate
from model_export.quantise.fp16 import halved
from model_export.quantise.graphs import layers
from model_export.quantise.images import batches, drawn
from model_export.quantise.int8 import quantised
from model_export.quantise.ranges import activation_ranges
from model_export.quantise.sensitivity import Bench, choose_float_layers
from service.card import (
    MODEL_FILES,
    SELF_TEST_FILE,
    CalibrationMethod,
    ModelCard,
    ModelFile,
    Precision,
    Preprocessing,
    Published,
    Quantisation,
    SelfTest,
    sha256,
)
from service.engine import Engine, SelfTestFailed
from service.providers import ProviderUnavailable

log = logging.getLogger(__name__)

# Measured on drawings: docs/quantisation.md.
METHOD: CalibrationMethod = "minmax"
CALIBRATION_IMAGES = 128
SENSITIVITY_IMAGES = 256  # others than those, where there are so many
HELD_OUT_IMAGES = 2000
LIMIT = 0.01


def quantise(
    published: Published,
    root: Path,
    data: Data,
    *,
    precisions: Sequence[Precision] = ("int8",),
    method: CalibrationMethod = METHOD,
    images: int = CALIBRATION_IMAGES,
    checked: int = SENSITIVITY_IMAGES,
    held_out: int = HELD_OUT_IMAGES,
    limit: float = LIMIT,
    left_out: Callable[[Precision, Exception], None] | None = None,
) -> ModelCard:
    """Makes files, proves them and publishes them with all others of the version as the next version of the model.

    Args:
        root: the model folder that `published` is in.
        data: images to calibrate on (`train`, used for int8 only) and to be judged by (`val`); without labels where
            they have no `classes`.
        precisions: int8, fp16 or both.
        images: at most so many are calibrated on.
        checked: at most so many others tell whether layers have to go back to float.
        held_out: at most so many are judged by.
        limit: what may be lost of accuracy (of agreement, without labels), a fraction in [0, 1]. Layers go back to
            float only where on other images, not those of the gate, more than this is lost of agreement.
        left_out: told of a file that fails, which is then left out; None raises what is wrong with it.

    Raises:
        GateFailed, SelfTestFailed: a file is too far from fp32; nothing is published. With `left_out`, of the last one
            where all fail.
        InputError: the images are too few, or one is broken.
        CardError: the published version cannot be used.
        ProviderUnavailable: nothing here runs the file.
        ExportError: the file is not what it should be.
        OSError: the folder cannot be written.
    """
    if "fp32" in precisions:
        raise ValueError("fp32 is what a model is exported in: choose int8 or fp16")
    judged = drawn(data.val, held_out)
    gate.check_enough(judged, limit)
    fp32 = OnnxPredictor(published, "cpu", "fp32")
    stored = SelfTest.read(published.path)
    made: list[_Made] = []
    files: dict[Precision, ModelFile] = {}
    last: Exception | None = None

    def refuse(precision: Precision, error: Exception) -> None:
        nonlocal last
        if left_out is None:
            raise error
        left_out(precision, error)
        last = error

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for precision in precisions:
            path = folder / MODEL_FILES[precision]
            quantisation = None
            try:
                if precision == "int8":
                    fp32_path = published.path / MODEL_FILES["fp32"]
                    model, quantisation = _int8(
                        fp32_path, fp32.preprocessing, data.train, method, images, checked, target=1 - limit
                    )
                else:
                    model = halved(onnx.load(published.path / MODEL_FILES["fp32"]))
                onnx.save(model, path)
                made.append(_Made(precision, path, quantisation, gate.engines(path, precision, stored)))
            except (ExportError, ProviderUnavailable, SelfTestFailed) as error:
                refuse(precision, error)
        comparisons = iter(gate.compare(fp32, [engine for one in made for engine in one.engines], judged))
        for one in made:
            of_file = list(itertools.islice(comparisons, len(one.engines)))
            for comparison in of_file:
                log.info("%s on %s", one.precision, gate.described(comparison))
            try:
                files[one.precision] = ModelFile(
                    file=one.path.name,
                    sha256=sha256(one.path),
                    bytes=one.path.stat().st_size,
                    gate=gate.passed(of_file, judged, limit),
                    quantisation=one.quantisation,
                )
            except gate.GateFailed as error:
                refuse(one.precision, error)
        if not files:
            assert last is not None
            raise last
        return _publish(published, root, fp32.card, files, folder)


class _Made(NamedTuple):
    """A file that is to be judged, on the engines that it would serve on."""

    precision: Precision
    path: Path
    quantisation: Quantisation | None
    engines: list[Engine]


def _int8(
    fp32: Path,
    preprocessing: Preprocessing,
    dataset: Dataset,
    method: CalibrationMethod,
    images: int,
    checked: int,
    *,
    target: float,
) -> tuple[ModelProto, Quantisation]:
    model = onnx.load(fp32)
    calibration = _pixels(drawn(dataset, images), preprocessing)
    runs = len(calibration) * (1 if method == "minmax" else 2)
    with Progress(f"calibrating on {dataset.name}", runs, unit="image") as progress:
        ranges = activation_ranges(fp32, calibration, method, progress.advance)
    others = drawn(dataset, checked, after=max(0, min(images, len(dataset) - checked)))
    bench = Bench(fp32, _pixels(others, preprocessing), lambda kept: quantised(model, ranges, kept))
    float_layers = choose_float_layers(bench, list(layers(model)), target)
    return quantised(model, ranges, float_layers), Quantisation(
        method=method, dataset=dataset.name, images=len(calibration), float_layers=float_layers
    )


def _pixels(dataset: Dataset, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (N, 3, crop, crop). Raises InputError where there are none."""
    if not len(dataset):
        raise InputError(f"{dataset.name} leaves no images to calibrate on: give more")
    return np.concatenate(list(batches(dataset, preprocessing, 32)))


def _publish(
    published: Published, root: Path, card: ModelCard, files: dict[Precision, ModelFile], folder: Path
) -> ModelCard:
    """The next version: the files of the old one, and the new ones, which replace those of their precision."""
    model_root = root / published.name
    with staging_folder(model_root) as staging:
        kept = {precision: entry for precision, entry in card.files.items() if precision not in files}
        for name in (*(entry.file for entry in kept.values()), SELF_TEST_FILE):
            _link(published.path / name, staging / name)
        for entry in files.values():
            shutil.copyfile(folder / entry.file, staging / entry.file)
        changed = card.model_copy(
            update={
                "version": next_version(root, published.name),
                "created": datetime.now(UTC).replace(microsecond=0),
                "files": kept | files,
                "tools": card.tools | {"onnxruntime": onnxruntime.__version__},
            }
        )
        return publish_folder(staging, model_root, changed)


def _link(path: Path, to: Path) -> None:
    """A second name for a file of the same content that takes no room; a copy where the file system has no such."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
