"""A working model by the best means at hand: what is there, else ImageNet weights, else the demo."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from model_export.datasets.base import Data
from model_export.datasets.drawn import Drawings
from model_export.demo import shipped_demo
from model_export.drawings import CLASSES
from model_export.errors import InputError
from model_export.publish import next_version, publish, publish_folder
from model_export.quantise.gate import images_needed
from model_export.quantise.quantising import LIMIT, quantise
from model_export.weights import Loaded, imagenet
from service.card import ModelCard, Published, published

log = logging.getLogger(__name__)

DEPTHS = (18, 50)
DEMO_NAME = "resnet18-demo"

# The drawings that a file is judged by, of a series that no network was trained on.
SEED = 2015


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
            publish_for_all(imagenet(depth), root)
        except InputError as error:
            log.warning("quickstart: no ImageNet weights: %s", error)
            break
    if not list(published(root)):
        log.warning("quickstart: the demo instead, a ResNet-18 that knows drawings of %s", ", ".join(CLASSES))
        publish_for_all(shipped_demo(), root, DEMO_NAME)
    names = sorted({entry.name for entry in published(root)})
    log.info("quickstart: %s now holds %s", root, ", ".join(names))


def publish_for_all(loaded: Loaded, root: Path, name: str | None = None) -> ModelCard:
    """Publishes a network with a file for CPUs and one for the tensor cores of GPUs.

    The machine that makes the files need not be the one that serves them: fp16 is made without a GPU, too.

    Args:
        name: as for `publish`.

    Raises:
        as `publish`. Where the file of lower precision fails, it is left out, with a word.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=root) as staging:
        card = publish(loaded, Path(staging), name)
        try:
            card = quantise(
                Published(card.name, card.version, Path(staging) / card.name / str(card.version)),
                Path(staging),
                Data(train=_drawings(0), val=_drawings(images_needed(LIMIT))),
                precision="fp16",
            )
        except Exception as error:  # the network itself is proven, and can be served
            log.warning("%s: published without an fp16 file, which GPUs would serve faster: %s", card.name, error)
        folder = Path(staging) / card.name / str(card.version)
        card = card.model_copy(update={"version": next_version(root, card.name)})
        (root / card.name).mkdir(exist_ok=True)
        return publish_folder(folder, root / card.name, card)


def _drawings(count: int) -> Drawings:
    return Drawings(seed=SEED, count=count)
