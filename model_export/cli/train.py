"""The `train` command: trains a network on a data set by a recipe."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_export.cli.machine_options import add_machine_options, machine_of
from model_export.cli.options import check_writable, path, refuse
from model_export.cli.run_options import (
    DEFAULT_RECIPE,
    RUN_OPTIONS,
    add_data,
    add_run_options,
    chosen,
    recipe_changes,
)
from model_export.errors import InputError
from model_export.evaluation.metrics import top_k_accuracy
from model_export.training import checkpoint
from model_export.training.callbacks import Callback
from model_export.training.distributed import Processes, join_processes
from model_export.training.history import Row
from model_export.training.machine import Machine
from model_export.training.recipe import describe, override
from model_export.training.recipes import recipe_for
from model_export.training.run import new_run, resumed_run
from model_export.training.stopping import Stopped
from model_export.training.trackers import open_trackers
from model_export.training.trainer import Trainer
from service.runtime.model_card import Architecture

log = logging.getLogger(__name__)

NEW_RUN_OPTIONS = (*RUN_OPTIONS, "out")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every field of the recipe is an option; `train --recipe NAME --show` prints their values. On several GPUs: "
        "torchrun --nproc-per-node 8 -m model_export train ..."
    )
    source = parser.add_mutually_exclusive_group()
    add_data(source)
    source.add_argument("--resume", type=path, metavar="RUN", help="folder of a stopped run to resume")
    source.add_argument("--show", action="store_true", help="print the recipe and exit")
    add_run_options(parser)
    parser.add_argument("--out", type=path, help="folder of the run (default: runs/NETWORK-RECIPE)")
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    changes = recipe_changes(args)
    if args.show:
        refuse(args, (name for name in NEW_RUN_OPTIONS if name not in ("recipe", "depth")), "a run")
        recipe = recipe_for(args.recipe or DEFAULT_RECIPE, Architecture(depth=args.depth or 0))
        print("\n".join(f"{name} {value}" for name, value in describe(override(recipe, changes))))
        return 0
    content = checkpoint.load(args.resume) if args.resume else None
    machine = machine_of(args, content["machine"] if content else {})
    trackers = open_trackers(machine.log_to)  # before the data is read, which may take long
    with join_processes(machine.device) as processes:
        if not processes.first:
            for package in ("model_export", "service"):
                logging.getLogger(package).setLevel(logging.ERROR)
        trainer = (
            resume(args, changes, content, machine, processes, trackers)
            if content
            else start(args, changes, machine, processes, trackers)
        )
        try:
            rows = trainer.run()
        except Stopped as stopped:
            if processes.first:
                command = f"python -m model_export train --resume {shlex.quote(str(trainer.folder))}"
                print(f"{stopped}; resume with: {command}", file=sys.stderr)
            return 128 + stopped.signum
        if processes.first:
            report(trainer, rows)
    return 0


def report(trainer: Trainer, rows: Sequence[Row]) -> None:
    """Evaluates and reports the finished run, and says how to publish its best weights."""
    from model_export.report.finished_multi_label import report_multi_label_run
    from model_export.report.finished_run import report_run  # imports matplotlib, which only reports need

    best = trainer.folder / checkpoint.BEST
    log_publication = "publish it: python -m model_export export --weights %s --name my-model"
    if trainer.loss.multi_label:
        accuracy = report_multi_label_run(trainer, rows)
        log.info(
            "%s: mAP %.2f %%, macro F1 %.2f %% of %d images of %s; see %s",
            best,
            100 * accuracy.mean_average_precision,
            100 * accuracy.macro_f1,
            accuracy.images,
            accuracy.dataset,
            trainer.folder / "report.html",
        )
        log.info(log_publication, shlex.quote(str(best)))
        return
    evaluation = report_run(trainer, rows)
    log.info(
        "%s: top-1 %.2f %%, top-5 %.2f %% of %d images of %s; see %s",
        best,
        100 * top_k_accuracy(evaluation, 1),
        100 * top_k_accuracy(evaluation, 5),
        len(evaluation.labels),
        evaluation.dataset,
        trainer.folder / "report.html",
    )
    log.info(log_publication, shlex.quote(str(best)))


def start(
    args: argparse.Namespace,
    changes: dict[str, Any],
    machine: Machine,
    processes: Processes,
    trackers: Sequence[Callback],
) -> Trainer:
    """A new run.

    Raises:
        InputError: the options, the weights or the data cannot be used, or the folder holds another run.
    """
    architecture, recipe, inputs, loaded = chosen(args, changes)
    folder = args.out or Path("runs") / f"{architecture.name}-{recipe.name}"
    check_writable(folder)
    if (folder / checkpoint.LAST).exists():
        raise InputError(f"{folder} already holds a run: resume it with `--resume {folder}`, or choose another --out")
    return new_run(
        architecture,
        recipe,
        inputs,
        folder,
        loaded=loaded,
        seed=args.seed or 0,
        machine=machine,
        processes=processes,
        callbacks=trackers,
    )


def resume(
    args: argparse.Namespace,
    changes: dict[str, Any],
    content: checkpoint.Content,
    machine: Machine,
    processes: Processes,
    trackers: Sequence[Callback],
) -> Trainer:
    """The stopped run in `--resume`.

    Raises:
        InputError: its data has changed, or options would change what it computes.
    """
    if given := [*changes, *(name for name in NEW_RUN_OPTIONS if getattr(args, name) is not None)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"a resumed run keeps its settings: leave {options} out, or start a new run from its weights with --weights"
        )
    return resumed_run(args.resume, content, machine=machine, processes=processes, callbacks=trackers)
