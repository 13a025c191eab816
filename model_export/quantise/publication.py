"""Publishes a model's next version with an int8 or fp16 file added, or with bf16 allowed, if it passes the gate."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from model_export.datasets.base import Data, Dataset
from model_export.errors import InputError
from model_export.evaluation.predictors import OnnxPredictor
from model_export.export.onnx_export import ExportError
from model_export.export.publish import publish_changed
from model_export.quantise import accuracy_gate
from model_export.quantise.bf16 import rounded_to_bf16
from model_export.quantise.fp16 import to_fp16
from model_export.quantise.graphs import layer_nodes
from model_export.quantise.images import batches, sample
from model_export.quantise.int8 import to_int8
from model_export.quantise.ranges import activation_ranges
from model_export.quantise.sensitivity import Int8Probe, choose_float_layers
from model_export.versions import check_brings_nothing_back, check_nothing_lost, published
from service.runtime.choices import FILES, FilePrecision, Precision
from service.runtime.engine import Engine
from service.runtime.head import Head
from service.runtime.model_card import CalibrationMethod, ModelCard, ModelFile, Quantisation
from service.runtime.model_folder import MODEL_FILES, ModelVersion, sha256
from service.runtime.preprocessing import Preprocessing
from service.runtime.progress import Progress
from service.runtime.providers import ProviderUnavailable
from service.runtime.self_test import SelfTest, SelfTestFailed

log = logging.getLogger(__name__)

# Measured on drawings: docs/quantisation.md.
CALIBRATION_METHOD: CalibrationMethod = "minmax"
CALIBRATION_IMAGES = 128
SENSITIVITY_IMAGES = 256  # not those calibrated on, if the data set is large enough
GATE_IMAGES = 2000
LOSS_LIMIT = 0.01
BATCH = 32


def publish_quantised(
    version: ModelVersion,
    data: Data,
    *,
    precisions: Sequence[Precision] = ("int8",),
    method: CalibrationMethod = CALIBRATION_METHOD,
    calibration_images: int = CALIBRATION_IMAGES,
    sensitivity_images: int = SENSITIVITY_IMAGES,
    gate_images: int = GATE_IMAGES,
    limit: float = LOSS_LIMIT,
    latest: int | None = None,
    on_failure: Callable[[Precision, Exception], None] | None = None,
) -> ModelCard:
    """Makes files of lower precision and publishes those that pass, with the version's other files, as the next one.

    Args:
        data: images to calibrate int8 on (`train`) and for the gate (`val`); without labels if they have no `classes`.
        precisions: of int8, fp16 and bf16. bf16 is computed from the fp32 file: only its gate is added to the card.
        method: of calibration.
        calibration_images: at most so many are calibrated on.
        sensitivity_images: at most so many others decide whether layers of int8 go back to float.
        gate_images: at most so many are compared on.
        limit: how much accuracy (without labels: agreement with fp32) may be lost, a fraction in [0, 1]. Layers go back
            to float if int8 loses more agreement than this on the sensitivity images, which the gate does not use.
        latest: the number of the model's latest version before `version` was chosen; None: it was chosen just now.
        on_failure: called for a file that fails, which is then left out; None raises the failure.

    Raises:
        GateFailed, SelfTestFailed: a file is too far from fp32; nothing is published. With `on_failure`, the last
            failure if all files fail.
        InputError: there are too few images, or one is broken; or by the end another process has published a version
            whose files or weights the next one would take from clients.
        CardError: the version's folder is damaged or incomplete.
        ProviderUnavailable: no provider here runs the file.
        ExportError: a file cannot be made.
        OSError: the folder cannot be written.
    """
    if "fp32" in precisions:
        raise ValueError("fp32 is what a model is exported in: choose int8, fp16 or bf16")
    if latest is None:
        latest = max(published(version.path.parent.parent, version.name))
    compared = sample(data.val, gate_images)
    accuracy_gate.check_enough(compared, limit)
    fp32 = OnnxPredictor(version, "cpu", "fp32")
    stored = SelfTest.read(version.path)
    fp32_path = version.path / MODEL_FILES["fp32"]
    failure: Exception | None = None

    def fail(precision: Precision, error: Exception) -> None:
        nonlocal failure
        if on_failure is None:
            raise error
        on_failure(precision, error)
        failure = error

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidates: list[_Candidate] = []
        for precision in precisions:
            path = folder / MODEL_FILES[FILES[precision]]
            quantisation = None
            rounded = None
            try:
                if precision == "int8":
                    model, quantisation = _make_int8(
                        fp32_path,
                        fp32.preprocessing,
                        data.train,
                        method=method,
                        calibration_images=calibration_images,
                        sensitivity_images=sensitivity_images,
                        target=1 - limit,
                        head=fp32.head,
                        temperature=fp32.temperature,
                    )
                    onnx.save(model, path)
                elif precision == "fp16":
                    onnx.save(to_fp16(onnx.load(fp32_path)), path)
                else:
                    path, rounded = fp32_path, folder / "rounded.onnx"
                    onnx.save(rounded_to_bf16(onnx.load(fp32_path)), rounded)
                engines = accuracy_gate.open_engines(path, precision, stored, rounded=rounded)
            except (ExportError, ProviderUnavailable, SelfTestFailed) as error:
                fail(precision, error)
            else:
                candidates.append(_Candidate(precision, path, quantisation, engines))
        files: dict[FilePrecision, ModelFile] = dict(fp32.card.files)
        new: list[Path] = []
        passed = False
        engines = [engine for candidate in candidates for engine in candidate.engines]
        comparisons = accuracy_gate.compare(fp32, engines, compared) if engines else []
        for candidate in candidates:
            own, comparisons = comparisons[: len(candidate.engines)], comparisons[len(candidate.engines) :]
            for comparison in own:
                log.info("%s on %s", candidate.precision, accuracy_gate.describe(comparison))
            try:
                gate = accuracy_gate.judge(own, compared, limit)
            except accuracy_gate.GateFailed as error:
                fail(candidate.precision, error)
                continue
            passed = True
            if candidate.precision == "bf16":
                files["fp32"] = files["fp32"].model_copy(update={"bf16": gate})
                continue
            new.append(candidate.path)
            files[FILES[candidate.precision]] = ModelFile(
                file=candidate.path.name,
                sha256=sha256(candidate.path),
                bytes=candidate.path.stat().st_size,
                gate=gate,
                quantisation=candidate.quantisation,
            )
        if not passed:
            assert failure is not None
            raise failure
        tools = fp32.card.tools | {"onnxruntime": onnxruntime.__version__}

        def check() -> None:
            check_brings_nothing_back(version)
            check_nothing_lost(version, latest)

        return publish_changed(version, {"files": files, "tools": tools}, new, check=check)


class _Candidate(NamedTuple):
    """A precision for the gate, on the engines that would serve it."""

    precision: Precision
    path: Path
    quantisation: Quantisation | None
    engines: list[Engine]


def _make_int8(
    fp32: Path,
    preprocessing: Preprocessing,
    dataset: Dataset,
    *,
    method: CalibrationMethod,
    calibration_images: int,
    sensitivity_images: int,
    target: float,
    head: Head,
    temperature: float,
) -> tuple[ModelProto, Quantisation]:
    """The graph in int8, calibrated; layers are in float where it takes them to reach the `target` agreement."""
    model = onnx.load(fp32)
    calibration = _pixels(sample(dataset, calibration_images), preprocessing)
    passes = 1 if method == "minmax" else 2
    with Progress(f"calibrating on {dataset.name}", passes * len(calibration), unit="image") as progress:
        ranges = activation_ranges(fp32, calibration, method, progress.advance)
    # Overlaps with the calibration images only if the data set is too small for both.
    others = sample(
        dataset, sensitivity_images, skip=max(0, min(calibration_images, len(dataset) - sensitivity_images))
    )
    pixels = _pixels(others, preprocessing)
    probe = Int8Probe(fp32, pixels, lambda float_layers: to_int8(model, ranges, float_layers), head, temperature)
    float_layers = choose_float_layers(probe, list(layer_nodes(model)), target)
    return to_int8(model, ranges, float_layers), Quantisation(
        method=method, dataset=dataset.name, images=len(calibration), float_layers=float_layers
    )


def _pixels(dataset: Dataset, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (N, channels, height, width). Raises InputError if the data set is empty."""
    if not len(dataset):
        raise InputError(f"{dataset.name} leaves no images to calibrate on: give more")
    return np.concatenate(list(batches(dataset, preprocessing, BATCH)))
