"""The `find-lr` command: looks for a learning rate with a range test."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from model_export.cli.machine_options import add_machine_options, machine_of
from model_export.cli.options import check_writable, path, positive, refuse
from model_export.cli.run_options import add_data, add_run_options, chosen, recipe_changes
from model_export.errors import InputError
from model_export.training.distributed import join_processes
from model_export.training.range_test import check_range, range_test
from model_export.training.recipe import override
from model_export.training.run import new_run

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Takes the options of `train`, so that the test is of the run that you mean to start."
    add_data(parser)
    parser.add_argument("--lowest", type=float, default=1e-5, help="learning rate of the first step (default: 1e-5)")
    parser.add_argument("--highest", type=float, default=10.0, help="learning rate of the last step (default: 10)")
    parser.add_argument("--test-steps", type=positive, default=100, help="steps of the test (default: 100)")
    parser.add_argument(
        "--picture", type=path, default=Path("learning-rates.png"), help="file to draw (default: learning-rates.png)"
    )
    add_run_options(parser)
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    changes = recipe_changes(args)
    if given := [name for name in ("epochs", "steps", "lr") if name in changes]:
        raise InputError(f"--{given[0]} has no use here: the test decides it, and how long it takes: leave it out")
    refuse(args, ("keep", "checkpoint_minutes", "log_to"), "train")
    check_range(args.lowest, args.highest, args.test_steps)
    check_writable(args.picture.parent)
    architecture, recipe, inputs, loaded = chosen(args, changes)
    machine = machine_of(args, {})
    with join_processes(machine.device) as processes, tempfile.TemporaryDirectory() as folder:
        trainer = new_run(
            architecture,
            override(recipe, {"steps": args.test_steps}),
            inputs,
            Path(folder),
            loaded=loaded,
            seed=args.seed or 0,
            machine=machine,
            processes=processes,
        )
        test = range_test(trainer, args.lowest, args.highest)
        if processes.first:
            from model_export.report.plots import range_test_plot, save_png  # imports matplotlib, which takes a while

            title = f"Loss against learning rate: {trainer.net.architecture.name}, recipe {recipe.name}"
            save_png(range_test_plot(test, title), args.picture)
            log.info("%s: drawn", args.picture)
            print(f"--lr {test.suggested:.2g}")
    return 0
