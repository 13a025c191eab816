"""Years in a minute: models are published, tried, promoted, calibrated, taken back, damaged, restarted.

At every step clients get the answers of the version that was meant, to the digit, and the default moves only when told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.versions import damage
from model_export.__main__ import main as model_export
from model_export.export.record import publish_record
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.measured import Accuracy, Calibration
from service.runtime.model_card import Architecture
from service.runtime.model_folder import ModelVersion, read_card
from service.runtime.scores import top_k
from tests.support.processes import Service
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DEPTHS = (8, 14, 20)
SMALL, MIDDLE, LARGE = NAMES = [f"resnet{depth}-cifar" for depth in DEPTHS]


def architecture(depth: int) -> Architecture:
    return Architecture(depth=depth, family="cifar", shortcut="A", num_classes=10)


class Life:
    """A model folder, and a service that follows it."""

    def __init__(self, root: Path, start: Callable[..., Service], photo: bytes, workers: int) -> None:
        self.root = root
        self._start = start
        self._photo = photo
        self._settings = {"provider": "cpu", "max_batch": 1, "poll_interval": 0.1, "workers": workers}

    def start(self) -> None:
        self.service = self._start(self.root, **self._settings)

    def tell(self, command: str, *arguments: str) -> None:
        """Runs a command of model_export on the folder."""
        assert model_export([command, *arguments, "--models-dir", str(self.root)]) == 0

    def right(self, name: str, version: int) -> list[dict[str, Any]]:
        """What a version answers to the photo, computed here."""
        folder = self.root / name / str(version)
        card = read_card(folder)
        pixels = decode(self._photo, card.preprocessing, max_pixels=10**9).pixels
        engine = load_engine(folder, card, provider="cpu", precision="fp32", threads=1)
        temperature = card.calibration.temperature if card.calibration else 1.0
        (top,) = top_k(engine.infer(pixels[None])["logits"], 5, temperature)
        return [
            {"class_id": class_id, "label": card.labels[class_id].name, "probability": round(probability, 6)}
            for class_id, probability in zip(top.class_ids.tolist(), top.probabilities.tolist(), strict=True)
        ]

    def answers(self, query: str) -> set[tuple[int, str, int]]:
        """Status, model and version of ten answers, which all workers give."""
        found = [self.service.classify(self._photo, query) for _ in range(10)]
        return {(each.status_code, each.json().get("model", ""), each.json().get("version", 0)) for each in found}

    def means(self, query: str, name: str, version: int) -> None:
        """Waits until a query means a version for all workers, and compares the answer."""
        until(lambda: self.answers(query) == {(200, name, version)})
        (image,) = self.service.classify(self._photo, query).json()["images"]
        assert image["predictions"] == self.right(name, version)

    def log(self) -> str:
        return self.service.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_life(tmp_path: Path, start_service: Callable[..., Service], photo: bytes, workers: int) -> None:
    root = tmp_path / "models"
    for depth in DEPTHS:  # as earlier releases wrote it: nothing says which one is the default
        publish_tiny(architecture(depth), root)
    life = Life(root, start_service, photo, workers)

    # No default is made up.
    life.start()
    assert life.answers("") == {(400, "", 0)}
    until(lambda: "no model is the default" in life.log())
    for depth, name in zip(DEPTHS, NAMES, strict=True):
        life.means(f"?model={name}", name, 1)
        life.means(f"?depth={depth}", name, 1)
    life.tell("default", MIDDLE)
    life.means("", MIDDLE, 1)

    # What is published answers to its name, unless a version was promoted.
    life.tell("promote", f"{MIDDLE}@1")
    for depth in DEPTHS:
        publish_tiny(architecture(depth), root, version=2, seed=2)
    life.means(f"?model={SMALL}", SMALL, 2)
    life.means(f"?model={LARGE}", LARGE, 2)
    life.means(f"?model={MIDDLE}", MIDDLE, 1)
    assert life.right(MIDDLE, 1) != life.right(MIDDLE, 2)
    life.means("", MIDDLE, 1)

    # A canary, its promotion, and the way back.
    life.tell("promote", f"{MIDDLE}@2", "--to", "canary")
    life.means(f"?model={MIDDLE}@canary", MIDDLE, 2)
    life.means("", MIDDLE, 1)
    life.tell("promote", f"{MIDDLE}@canary")
    life.means("", MIDDLE, 2)
    life.tell("rollback", MIDDLE)
    life.means("", MIDDLE, 1)

    # A calibration is a version of its own: the one before still answers as it did.
    calibration = Calibration(temperature=3.0, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    before = life.right(LARGE, 2)
    publish_record(ModelVersion(LARGE, 2, root / LARGE / "2"), accuracy(), calibration=calibration)
    life.means(f"?model={LARGE}", LARGE, 3)
    assert life.right(LARGE, 3) != before == life.right(LARGE, 2)

    # A newcomer whose name and depth come first changes nothing.
    publish_tiny(architecture(2 + 6), tmp_path / "elsewhere", seed=5)
    rename(tmp_path / "elsewhere" / SMALL, root / "aaa-experiment")
    life.means("?model=aaa-experiment", "aaa-experiment", 1)
    life.means("", MIDDLE, 1)
    assert life.answers("?depth=8") == {(400, "", 0)}  # two models have it, and neither is the default

    # The newest version is damaged while nobody looks: the last good one answers after a restart.
    assert life.service.stop() == 0
    damage(root / SMALL / "2")
    life.start()
    life.means(f"?model={SMALL}", SMALL, 1)
    life.means("", MIDDLE, 1)
    life.means(f"?model={MIDDLE}@canary", MIDDLE, 2)
    assert f"{SMALL} 2 is not served" in life.log()
    (failed,) = [one for one in life.service.get("/models").json()["candidates"] if one["state"] == "failed"]
    assert (failed["name"], failed["version"]) == (SMALL, 2)
    state = f'resnet_model_state{{model="{SMALL}",state="failed",version="2"}} 1.0'
    assert state in life.service.get("/metrics").text.splitlines()

    # It is removed once another one is named, and its number is not used again.
    assert model_export(["remove", f"{SMALL}@2", "--models-dir", str(root)]) == 1
    life.tell("promote", f"{SMALL}@1")
    life.tell("remove", f"{SMALL}@2")
    publish_record(ModelVersion(SMALL, 1, root / SMALL / "1"), accuracy())
    life.tell("promote", f"{SMALL}@3")
    life.means(f"?model={SMALL}", SMALL, 3)
    assert life.right(SMALL, 3) == life.right(SMALL, 1)
    life.means("", MIDDLE, 1)
    assert life.service.stop() == 0


def accuracy() -> Accuracy:
    return Accuracy(dataset="pictures", images=100, top1=0.5, top5=0.9)


def rename(folder: Path, to: Path) -> None:
    """Gives a published model another name."""
    card = folder / "1" / "card.json"
    card.write_text(card.read_text().replace(f'"name": "{folder.name}"', f'"name": "{to.name}"'))
    folder.rename(to)
