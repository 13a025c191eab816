"""The `quickstart` command: fills an empty model folder with ImageNet weights, or with the demo."""

from __future__ import annotations

import argparse
import logging
import tempfile
import timeit
from pathlib import Path

import numpy as np
import onnx

from model_export.cli.options import add_models_dir, check_writable
from model_export.datasets.base import Data
from model_export.datasets.drawings import Drawings
from model_export.demo import DEMO_NAME, shipped_demo
from model_export.drawings.pictures import CLASSES
from model_export.drawings.samples import sample_images
from model_export.errors import CheckFailed, InputError
from model_export.export.publish import next_version, publish, publish_folder
from model_export.quantise.accuracy_gate import images_needed
from model_export.quantise.int8 import to_int8
from model_export.quantise.publication import LOSS_LIMIT, publish_quantised
from model_export.quantise.ranges import activation_ranges
from model_export.weights.imagenet import load_imagenet
from model_export.weights.loading import Loaded
from service.runtime.choices import FilePrecision, Precision
from service.runtime.engine import DynamicEngine
from service.runtime.machine import usable_cores
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import MODEL_FILES, ModelVersion, model_versions
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable, open_session
from service.runtime.self_test import SelfTestFailed

log = logging.getLogger(__name__)

DEPTHS = (18, 50)
SEED = 2015  # of drawings that no network was trained on
CALIBRATION_DRAWINGS = 32  # for int8; equally many others show which layers have to stay in float


def add_options(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    check_writable(args.models_dir)
    quickstart(args.models_dir)
    return 0


def quickstart(root: Path) -> None:
    """Fills an empty model folder: with ImageNet weights if they are cached or can be downloaded, else with the demo.

    A folder that already holds models stays as it is.

    Raises:
        as `publish`; each model is published completely or not at all.
    """
    if present := published_names(root):
        log.info("quickstart: %s already holds %s; nothing to do", root, ", ".join(present))
        return
    for depth in DEPTHS:
        try:
            card = publish_with_low_precision(load_imagenet(depth), root)
        except InputError as error:
            log.warning("quickstart: no ImageNet weights: %s", error)
            break
        log.info(
            "%s: int8 would compute %.1f times as many images on this machine; to make it, calibrate on pictures of "
            "your own: python -m model_export quantize %s --data FOLDER",
            card.name,
            int8_speedup(root / card.name / str(card.version), card.preprocessing),
            card.name,
        )
    if not published_names(root):
        log.warning("quickstart: publishing the demo instead, a ResNet-18 for drawings of %s", ", ".join(CLASSES))
        publish_with_low_precision(shipped_demo(), root, DEMO_NAME, demo_drawings())
    log.info("quickstart: %s now holds %s", root, ", ".join(published_names(root)))


def published_names(root: Path) -> list[str]:
    return sorted({entry.name for entry in model_versions(root)})


def publish_with_low_precision(
    loaded: Loaded, root: Path, name: str | None = None, data: Data | None = None
) -> ModelCard:
    """Publishes a network in one version with an fp16 file, bf16 and, given images to calibrate on, an int8 file.

    fp16 is for the tensor cores of GPUs, bf16 for CPUs that have it. Both are compared with fp32 on machines without
    these, too: the model may be served elsewhere.

    Args:
        name: as for `publish`.
        data: images for calibration (`train`) and for the comparison with fp32 (`val`); None if there are none of the
            network's own kind.

    Raises:
        as `publish`. A file of lower precision that fails its checks is left out, with a warning.
    """

    def warn(precision: Precision, error: Exception) -> None:
        log.warning("%s: published without %s: %s", card.name, precision, error)

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=root) as staging:
        card = publish(loaded, Path(staging), name)
        folder = Path(staging) / card.name / str(card.version)
        try:
            card = publish_quantised(
                ModelVersion(card.name, card.version, folder),
                data or Data(Drawings(seed=SEED, count=0), Drawings(seed=SEED, count=images_needed(LOSS_LIMIT))),
                precisions=("int8", "fp16", "bf16") if data else ("fp16", "bf16"),
                calibration_images=CALIBRATION_DRAWINGS,
                sensitivity_images=CALIBRATION_DRAWINGS,
                on_failure=warn,
            )
            folder = folder.with_name(str(card.version))
        except (CheckFailed, SelfTestFailed, ProviderUnavailable):
            pass  # every file failed: `warn` has logged each failure
        except Exception as error:  # the fp32 file has passed its checks and can be served without the others
            log.warning("%s: published in fp32 only: %s", card.name, error)
        card = card.model_copy(update={"version": next_version(root, card.name)})
        (root / card.name).mkdir(exist_ok=True)
        return publish_folder(folder, root / card.name, card)


def int8_speedup(folder: Path, preprocessing: Preprocessing) -> float:
    """Throughput of a published network in int8, as a multiple of fp32, on ONNX Runtime's CPU provider.

    The int8 file is calibrated on four drawings: enough to measure its speed, not its accuracy.
    """
    pixels = sample_images(4, preprocessing)
    path = folder / MODEL_FILES["fp32"]
    ranges = activation_ranges(path, pixels, "minmax", lambda images: None)
    with tempfile.TemporaryDirectory() as name:
        int8_path = Path(name) / MODEL_FILES["int8"]
        onnx.save(to_int8(onnx.load(path), ranges, ()), int8_path)
        return best_seconds(path, "fp32", pixels) / best_seconds(int8_path, "int8", pixels)


def best_seconds(path: Path, precision: FilePrecision, pixels: np.ndarray) -> float:
    """The best time of five for one batch: noise only ever slows a run down."""
    engine = DynamicEngine.of(open_session(path, "cpu", precision, threads=usable_cores()))
    return min(timeit.repeat(lambda: engine.infer(pixels), number=1, repeat=5))


def demo_drawings() -> Data:
    """Drawings that the demo was not trained on: for calibration, and for the comparison with fp32."""
    first = 2 * CALIBRATION_DRAWINGS
    return Data(Drawings(seed=SEED, count=first), Drawings(seed=SEED, first=first, count=images_needed(LOSS_LIMIT)))
