"""The paper's findings, as trainings side by side: what is compared, and how it is run at either scale.

Each network is trained by `python -m model_export train` in a process and a folder of its own; a study that was
interrupted goes on where it was. On CPUs as many run at once as there are cores: nets this small gain nothing from a
second core.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from model_export.disk import write_whole
from model_export.errors import InputError
from model_export.progress import Progress
from model_export.training import checkpoint
from model_export.training.history import METRICS_FILE, Row, read_history
from model_export.weights import load_file
from service.card import Architecture, Shortcut
from service.providers import usable_cores

log = logging.getLogger(__name__)

StudyName = Literal["degradation", "shortcuts", "depth"]
Panels = Mapping[str, Mapping[str, Architecture]]  # as drawn: title of the panel -> network's name -> network

LOG_FILE = "log.txt"
SETTINGS_FILE = "settings.json"
POLL_S = 1.0


class Scale(NamedTuple):
    """How large a study is."""

    data: str
    recipe: tuple[str, ...]  # options of `train`
    degradation: tuple[int, ...]  # depths
    shortcuts: int  # depth
    depth: tuple[int, ...]


# Under 15 minutes each on two cores. Batches are a quarter of the paper's, because in so short a time steps are what
# lacks: after 380 steps of 128 images neither ResNet-56 nor its plain counterpart had learned much.
SMALL = Scale(
    data="drawings:train=4096,val=1024,side=32,difficulty=easy,classes=circle+cross+star+heart+stripes+dots",
    recipe=("--epochs", "12", "--batch-size", "32", "--lr", "0.05", "--milestones", "0.8", "--workers", "0"),
    degradation=(20, 32, 44, 56),
    shortcuts=44,
    depth=(20, 56, 110),
)
# Section 4.2 as it is.
PAPER = Scale(
    data="cifar10",
    recipe=(),
    degradation=(20, 32, 44, 56, 110),
    shortcuts=56,
    depth=(20, 32, 44, 56, 110, 1202),
)


class Study(NamedTuple):
    """One comparison."""

    name: StudyName
    title: str
    expectation: str  # what the paper found
    panels: Panels


def study(name: StudyName, scale: Scale) -> Study:
    """A study by name."""
    if name == "degradation":
        return Study(
            name,
            "Degradation: plain against residual nets",
            "Plain nets train to a higher error the deeper they are; residual nets do not (figures 4 and 6).",
            {
                "plain": {f"plain-{depth}": cifar(depth, None) for depth in scale.degradation},
                "residual": {f"ResNet-{depth}": cifar(depth) for depth in scale.degradation},
            },
        )
    if name == "shortcuts":
        depth = scale.shortcuts
        options: dict[str, Shortcut | None] = {"plain": None, "A": "A", "B": "B", "C": "C"}
        return Study(
            name,
            f"Shortcut options at depth {depth}",
            "All three options are far better than none and differ little; C is slightly better than B, B than A "
            "(table 3, on ImageNet).",
            {"": {label: cifar(depth, option) for label, option in options.items()}},
        )
    return Study(
        name,
        "Deeper residual nets",
        "Residual nets gain from depth up to 110 layers; 1202 layers train as well, and test worse (figure 6).",
        {"": {f"ResNet-{depth}": cifar(depth) for depth in scale.depth}},
    )


def cifar(depth: int, shortcut: Shortcut | None = "A") -> Architecture:
    return Architecture(depth=depth, family="cifar", shortcut=shortcut, num_classes=10)


def train_all(panels: Panels, scale: Scale, folder: Path, *, seed: int) -> dict[str, dict[str, list[Row]]]:
    """Trains every network of a study, each in `folder/<network>`; returns the histories, by panel and network.

    Raises:
        InputError: a run failed; the message names its log.
    """
    _claim(folder, {"data": scale.data, "recipe": list(scale.recipe), "seed": seed})
    nets = {label: net for runs in panels.values() for label, net in runs.items()}
    parallel = 1 if torch.cuda.is_available() else usable_cores()
    stop = threading.Event()
    # The deepest first: what is left for the end should be short.
    order = sorted(nets, key=lambda label: -nets[label].depth)
    with (
        ThreadPoolExecutor(parallel) as pool,
        Progress("study", len(order), unit="network") as progress,
    ):
        runs = {
            label: pool.submit(_train, nets[label], scale, folder / label, seed, parallel > 1, stop) for label in order
        }
        try:
            for label, run in runs.items():
                rows = run.result()
                log.info(
                    "%s: training error %.2f %%, validation error %.2f %% after %d steps",
                    label,
                    100 * rows[-1].train_error,
                    100 * rows[-1].val_error,
                    rows[-1].step,
                )
                progress.advance()
        finally:
            stop.set()  # on an error or Ctrl-C the others write their checkpoints and end
    return {title: {label: runs[label].result() for label in labels} for title, labels in panels.items()}


def _claim(folder: Path, settings: dict[str, object]) -> None:
    """Notes what a folder's runs are made with. Raises InputError if it holds runs that were made otherwise."""
    note = folder / SETTINGS_FILE
    if note.exists():
        if (found := json.loads(note.read_text())) != settings:
            raise InputError(f"{folder} holds runs of another study ({found}): choose another --out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(settings).encode())


def classes_of(panels: Panels, folder: Path) -> tuple[str, ...]:
    """The classes that the networks of a finished study tell apart."""
    network = next(label for runs in panels.values() for label in runs)
    return tuple(label.name for label in load_file(folder / network / checkpoint.BEST).labels)


def _train(
    net: Architecture, scale: Scale, folder: Path, seed: int, one_core: bool, stop: threading.Event
) -> list[Row]:
    """One run, to its end, in a process of its own; nothing if it is finished already."""
    if stop.is_set():
        raise InputError("the study was stopped: run it again to go on")
    if not (folder / "report.html").exists():
        options = ["--resume", str(folder)]
        if not (folder / checkpoint.LAST).exists():
            options = ["--data", scale.data, "--recipe", "paper-cifar", "--depth", str(net.depth), "--seed", str(seed)]
            options += ["--shortcut", net.shortcut or "none", "--out", str(folder), *scale.recipe]
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "model_export", "train", *options]
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if one_core else {})
        with (folder / LOG_FILE).open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            while process.poll() is None:
                if stop.wait(POLL_S):
                    process.terminate()
                    process.wait()
        if process.returncode:
            last = (folder / LOG_FILE).read_text(errors="replace").strip().splitlines()[-1:]
            raise InputError(f"the training in {folder} ended early ({' '.join(last)}): see {folder / LOG_FILE}")
    return read_history(folder / METRICS_FILE)
