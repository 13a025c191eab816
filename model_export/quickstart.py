"""A working model by the best means at hand: what is there, else ImageNet weights, else the demo."""

from __future__ import annotations

import logging
import tempfile
import timeit
from pathlib import Path

import onnx

from model_export.datasets.base import Data
from model_export.datasets.drawn import Drawings
from model_export.demo import shipped_demo
from model_export.drawings import CLASSES
from model_export.errors import InputError
from model_export.onnx_export import ExportError
from model_export.parity import sample_images
from model_export.publish import next_version, publish, publish_folder
from model_export.quantise.gate import GateFailed, images_needed
from model_export.quantise.int8 import quantised
from model_export.quantise.quantising import LIMIT, quantise
from model_export.quantise.ranges import activation_ranges
from model_export.weights import Loaded, imagenet
from service.card import MODEL_FILES, ModelCard, Precision, Preprocessing, Published, published
from service.engine import DynamicEngine, SelfTestFailed
from service.providers import ProviderUnavailable, open_session, usable_cores

log = logging.getLogger(__name__)

DEPTHS = (18, 50)
DEMO_NAME = "resnet18-demo"

SEED = 2015  # of drawings that no network was trained on
CALIBRATED = 32  # drawings that int8 is calibrated on; as many others tell whether layers have to stay in float


def quickstart(root: Path) -> None:
    """Fills an empty model folder; leaves one that holds models as it is.

    Raises:
        as `publish`; nothing is half-published.
    """
    if there := sorted({entry.name for entry in published(root)}):
        log.info("quickstart: %s already holds %s; nothing to do", root, ", ".join(there))
        return
    for depth in DEPTHS:
        try:
            card = publish_for_all(imagenet(depth), root)
        except InputError as error:
            log.warning("quickstart: no ImageNet weights: %s", error)
            break
        log.info(
            "%s: int8 would compute %.1f times as many images here: python -m model_export quantize %s --data FOLDER, "
            "with pictures of your own to calibrate on",
            card.name,
            int8_gain(root / card.name / str(card.version), card.preprocessing),
            card.name,
        )
    if not list(published(root)):
        log.warning("quickstart: the demo instead, a ResNet-18 that knows drawings of %s", ", ".join(CLASSES))
        publish_for_all(shipped_demo(), root, DEMO_NAME, demo_pictures())
    names = sorted({entry.name for entry in published(root)})
    log.info("quickstart: %s now holds %s", root, ", ".join(names))


def publish_for_all(loaded: Loaded, root: Path, name: str | None = None, data: Data | None = None) -> ModelCard:
    """Publishes a network with a file for the tensor cores of GPUs and, given pictures to calibrate on, one in int8.

    The machine that makes the files need not be the one that serves them: fp16 is made without a GPU, too.

    Args:
        name: as for `publish`.
        data: to calibrate on, and to judge by; None where there are no pictures of the network's own kind.

    Raises:
        as `publish`. A file of lower precision that fails is left out, with a word.
    """

    def left_out(precision: Precision, error: Exception) -> None:
        log.warning("%s: published without an %s file: %s", card.name, precision, error)

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=root) as staging:
        card = publish(loaded, Path(staging), name)
        folder = Path(staging) / card.name / str(card.version)
        try:
            card = quantise(
                Published(card.name, card.version, folder),
                Path(staging),
                data or Data(Drawings(seed=SEED, count=0), Drawings(seed=SEED, count=images_needed(LIMIT))),
                precisions=("int8", "fp16") if data else ("fp16",),
                images=CALIBRATED,
                checked=CALIBRATED,
                left_out=left_out,
            )
            folder = folder.with_name(str(card.version))
        except Exception as error:  # the network itself is proven, and can be served
            if not isinstance(error, GateFailed | SelfTestFailed | ExportError | ProviderUnavailable):
                log.warning("%s: published in fp32 only: %s", card.name, error)
        card = card.model_copy(update={"version": next_version(root, card.name)})
        (root / card.name).mkdir(exist_ok=True)
        return publish_folder(folder, root / card.name, card)


def int8_gain(folder: Path, preprocessing: Preprocessing) -> float:
    """Images/s of a published network in int8 ÷ in fp32, on ONNX Runtime's CPU provider.

    Calibrated on a few drawings, which is good enough for its speed and for nothing else.
    """
    pixels = sample_images(4, preprocessing)
    path = folder / MODEL_FILES["fp32"]
    ranges = activation_ranges(path, pixels, "minmax", lambda images: None)
    with tempfile.TemporaryDirectory() as name:
        int8 = Path(name) / MODEL_FILES["int8"]
        onnx.save(quantised(onnx.load(path), ranges, ()), int8)
        seconds = []
        for file, precision in ((path, "fp32"), (int8, "int8")):
            engine = DynamicEngine(open_session(file, "cpu", precision, threads=usable_cores()))  # type: ignore[arg-type]
            seconds.append(min(timeit.repeat(lambda engine=engine: engine.infer(pixels), number=1, repeat=5)))  # type: ignore[misc]
    return seconds[0] / seconds[1]


def demo_pictures() -> Data:
    """Drawings that the demo was not trained on: to calibrate on, and to judge by."""
    first = 2 * CALIBRATED
    return Data(Drawings(seed=SEED, count=first), Drawings(seed=SEED, first=first, count=images_needed(LIMIT)))
