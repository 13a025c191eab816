"""From a published fp32 file to a version that also has one of lower precision, all or nothing."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from model_export.datasets.base import Data, Dataset
from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor
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
    precision: Precision = "int8",
    method: CalibrationMethod = METHOD,
    images: int = CALIBRATION_IMAGES,
    held_out: int = HELD_OUT_IMAGES,
    limit: float = LIMIT,
) -> ModelCard:
    """Makes the file, proves it and publishes it with all others of the version as the next version of the model.

    Args:
        root: the model folder that `published` is in.
        data: images to calibrate on (`train`, used for int8 only) and to be judged by (`val`); without labels where
            they have no `classes`.
        precision: int8 or fp16.
        images: at most so many are calibrated on.
        held_out: at most so many are judged by.
        limit: what may be lost of accuracy (of agreement, without labels), a fraction in [0, 1]. Layers go back to
            float only where on other images, not those of the gate, more than this is lost of agreement.

    Raises:
        GateFailed, SelfTestFailed: the file is too far from fp32; nothing is published.
        InputError: the images are too few, or one is broken.
        CardError: the published version cannot be used.
        ProviderUnavailable: nothing here runs the file.
        ExportError: the file is not what it should be.
        OSError: the folder cannot be written.
    """
    if precision == "fp32":
        raise ValueError("fp32 is what a model is exported in: choose int8 or fp16")
    judged = drawn(data.val, held_out)
    gate.check_enough(judged, limit)
    fp32 = OnnxPredictor(published, "cpu", "fp32")
    fp32_path = published.path / MODEL_FILES["fp32"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILES[precision]
        quantisation = None
        if precision == "int8":
            model, quantisation = _int8(fp32_path, fp32.preprocessing, data.train, method, images, target=1 - limit)
        else:
            model = halved(onnx.load(fp32_path))
        onnx.save(model, path)
        others = gate.engines(path, precision, SelfTest.read(published.path))
        comparisons = gate.compare(fp32, others, judged)
        for comparison in comparisons:
            log.info("%s on %s", precision, gate.described(comparison))
        file = ModelFile(
            file=path.name,
            sha256=sha256(path),
            bytes=path.stat().st_size,
            gate=gate.passed(comparisons, judged, limit),
            quantisation=quantisation,
        )
        return _publish(published, root, fp32.card, precision, file, path)


def _int8(
    fp32: Path, preprocessing: Preprocessing, dataset: Dataset, method: CalibrationMethod, images: int, *, target: float
) -> tuple[ModelProto, Quantisation]:
    model = onnx.load(fp32)
    calibration = _pixels(drawn(dataset, images), preprocessing)
    runs = len(calibration) * (1 if method == "minmax" else 2)
    with Progress(f"calibrating on {dataset.name}", runs, unit="image") as progress:
        ranges = activation_ranges(fp32, calibration, method, progress.advance)
    others = drawn(dataset, SENSITIVITY_IMAGES, after=max(0, min(images, len(dataset) - SENSITIVITY_IMAGES)))
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
    published: Published, root: Path, card: ModelCard, precision: Precision, file: ModelFile, path: Path
) -> ModelCard:
    """The next version: the files of the old one, and the new one, which replaces one of its precision."""
    model_root = root / published.name
    with staging_folder(model_root) as staging:
        kept = {other: entry for other, entry in card.files.items() if other != precision}
        for name in (*(entry.file for entry in kept.values()), SELF_TEST_FILE):
            _link(published.path / name, staging / name)
        shutil.copyfile(path, staging / file.file)
        changed = card.model_copy(
            update={
                "version": next_version(root, published.name),
                "created": datetime.now(UTC).replace(microsecond=0),
                "files": kept | {precision: file},
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
