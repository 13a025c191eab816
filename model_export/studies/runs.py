"""Trains the networks of a study side by side, each in a process and a folder of its own.

Each process is `python -m model_export train`. An interrupted study resumes where it stopped. On CPUs, as many networks
train at once as there are cores: nets this small gain nothing from a second core.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from model_export.errors import InputError
from model_export.studies.study import Panels, Scale
from model_export.training import checkpoint
from model_export.training.history import METRICS_FILE, Row, read_history
from model_export.weights.loading import load_file
from service.runtime.disk import write_atomically
from service.runtime.machine import usable_cores
from service.runtime.model_card import Architecture, ImageSet
from service.runtime.progress import Progress

log = logging.getLogger(__name__)

LOG_FILE = "log.txt"
SETTINGS_FILE = "settings.json"
POLL_S = 1.0


def train_all(panels: Panels, scale: Scale, folder: Path, *, seed: int) -> dict[str, dict[str, list[Row]]]:
    """Trains every network of a study, each in `folder/<label>`; returns the histories by panel and label.

    Raises:
        InputError: a run failed (the message names its log), or the folder holds another study.
    """
    _claim(folder, {"data": scale.data, "split": scale.split, "recipe": list(scale.recipe), "seed": seed})
    nets = {label: net for panel in panels.values() for label, net in panel.items()}
    parallel = 1 if torch.cuda.is_available() else usable_cores()
    stop = threading.Event()
    # Deepest first: short runs at the end leave few cores idle.
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
                last = run.result()[-1]
                log.info(
                    "%s: training error %.2f %%, %s error %.2f %% after %d steps",
                    label,
                    100 * last.train_error,
                    scale.held_out,
                    100 * last.val_error,
                    last.step,
                )
                progress.advance()
        finally:
            stop.set()  # on an error or Ctrl-C the other runs write their checkpoints and end
    return {title: {label: runs[label].result() for label in panel} for title, panel in panels.items()}


def data_of(panels: Panels, folder: Path) -> tuple[tuple[str, ...], ImageSet]:
    """The class names of a finished study's data, and the images that its errors are measured on."""
    network = next(label for panel in panels.values() for label in panel)
    loaded = load_file(folder / network / checkpoint.BEST)
    assert loaded.training is not None  # `train` records it
    return tuple(label.name for label in loaded.labels), loaded.training.val


def _claim(folder: Path, settings: dict[str, object]) -> None:
    """Writes a study's settings into its folder. Raises InputError if the folder holds runs with other settings."""
    file = folder / SETTINGS_FILE
    if file.exists():
        if (existing := json.loads(file.read_text())) != settings:
            raise InputError(f"{folder} holds runs of another study ({existing}): choose another --out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(settings).encode())


def _train(
    net: Architecture, scale: Scale, folder: Path, seed: int, one_core: bool, stop: threading.Event
) -> list[Row]:
    """Starts or resumes one run in a process of its own and waits for its end; a finished run is not repeated."""
    if stop.is_set():
        raise InputError("the study was stopped: run it again to resume")
    if not (folder / "report.html").exists():
        options = ["--resume", str(folder)]
        if not (folder / checkpoint.LAST).exists():
            options = ["--data", scale.data, "--recipe", "paper-cifar", "--depth", str(net.depth), "--seed", str(seed)]
            options += ["--shortcut", net.shortcut or "none", "--out", str(folder), *scale.recipe]
            options += [] if scale.split == "auto" else ["--split", scale.split]
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
            last_line = (folder / LOG_FILE).read_text(errors="replace").strip().splitlines()[-1:]
            raise InputError(f"the training in {folder} ended early ({' '.join(last_line)}): see {folder / LOG_FILE}")
    return read_history(folder / METRICS_FILE)
