"""`python -m model_export study NAME`: the paper's findings, measured here."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from model_export.cli.options import check_writable, path, refuse, seed
from model_export.disk import write_whole
from model_export.studies.deepest import demonstrate
from model_export.studies.study import PAPER, SMALL, StudyName, classes_of, study, train_all
from model_export.studies.table import markdown, table

log = logging.getLogger(__name__)

NAMES = (*get_args(StudyName), "table")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Repeat one of the paper's comparisons: degradation, shortcuts, depth; or print the table of all networks."
    sub = commands.add_parser("study", help=text, description=text)
    sub.set_defaults(run=run)
    sub.add_argument("name", choices=NAMES)
    sub.add_argument("--out", type=path, help="folder for the page, the picture and the runs (default: studies/NAME)")
    sub.add_argument(
        "--paper-scale",
        action="store_const",
        const=True,
        help="CIFAR-10 and 64,000 steps, as in section 4.2; for a GPU (default: drawings, for two cores)",
    )
    sub.add_argument("--data", metavar="SPEC", help="other data, as of `train`")
    sub.add_argument("--seed", type=seed, help="(default: 0)")


def run(args: argparse.Namespace) -> int:
    if args.name == "table":
        refuse(args, ("paper_scale", "data", "seed"), "the comparisons, which train networks")
    folder = args.out or Path("studies") / (args.name + "-paper-scale" * bool(args.paper_scale))
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.name == "table":
        text = markdown(table())
        write_whole(folder / "table.md", text.encode())
        print(text, end="")
        return 0
    seed = args.seed or 0
    scale = PAPER if args.paper_scale else SMALL
    if args.data:
        scale = scale._replace(data=args.data)
    chosen = study(args.name, scale)
    results = train_all(chosen.panels, scale, folder, seed=seed)
    notes = f"\n{demonstrate()}\n" if args.name == "depth" and not args.paper_scale else "\n"
    from model_export.studies import report  # brings matplotlib, which only reports need

    path = report.write(
        folder,
        chosen,
        results,
        facts=[
            ("data", f"`{scale.data}`"),
            ("recipe", f"`{' '.join(('paper-cifar', *scale.recipe))}`"),
            ("seed", str(seed)),
        ],
        classes=classes_of(chosen.panels, folder),
        notes=notes,
    )
    print(path.read_text(encoding="utf-8"), end="")
    log.info("written: %s", path)
    return 0
