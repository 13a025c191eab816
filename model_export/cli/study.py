"""The `study` command: repeats the paper's comparisons."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from model_export.cli.options import check_writable, path, refuse, seed
from model_export.studies.network_table import network_rows, to_markdown
from model_export.studies.resnet1202 import run_end_to_end
from model_export.studies.runs import data_of, train_all
from model_export.studies.study import PAPER, SMALL, StudyName, get_study
from service.runtime.disk import write_atomically

log = logging.getLogger(__name__)

NAMES = (*get_args(StudyName), "table")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        choices=NAMES,
        help="degradation: plain against residual networks; shortcuts: options A, B and C; depth: 20 to 110 layers and "
        "ResNet-1202; table: size and cost of every network, without training",
    )
    parser.add_argument("--out", type=path, help="folder for the page, the plot and the runs (default: studies/NAME)")
    parser.add_argument(
        "--paper-scale",
        action="store_const",
        const=True,
        help="CIFAR-10 and 64,000 steps, as in section 4.2 of the paper; for a GPU (default: drawings, for two cores)",
    )
    parser.add_argument("--data", metavar="SPEC", help="other data to train on, as for `train`")
    parser.add_argument("--seed", type=seed, help="seed of all trainings (default: 0)")


def run(args: argparse.Namespace) -> int:
    if args.name == "table":
        refuse(args, ("paper_scale", "data", "seed"), "the comparisons, which train networks")
    folder = args.out or Path("studies") / (args.name + "-paper-scale" * bool(args.paper_scale))
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.name == "table":
        table = to_markdown(network_rows())
        write_atomically(folder / "table.md", table.encode())
        print(table, end="")
    else:
        compare(args, folder)
    return 0


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Trains the networks of a study, then writes and prints its findings."""
    seed = args.seed or 0
    scale = PAPER if args.paper_scale else SMALL
    if args.data:
        scale = scale.on(args.data)
    study = get_study(args.name, scale)
    results = train_all(study.panels, scale, folder, seed=seed)
    notes = f"\n{run_end_to_end()}\n" if args.name == "depth" and not args.paper_scale else "\n"

    from model_export.studies.findings import write_findings  # imports matplotlib, which the table does not need

    classes, images = data_of(study.panels, folder)
    page = write_findings(
        folder,
        study,
        results,
        facts=[
            ("data", f"`{scale.data}`"),
            ("recipe", f"`{' '.join(('paper-cifar', *scale.recipe))}`"),
            ("seed", str(seed)),
            ("errors", f"of the last weights, on {images.images:,} images of {images.name}"),
        ],
        classes=classes,
        held_out=scale.held_out,
        notes=notes,
    )
    print(page.read_text(encoding="utf-8"), end="")
    log.info("wrote %s", page)
