"""`demo`: train the demo again, as the file that ships with the project was."""

from __future__ import annotations

import argparse
import logging

from model_export.cli.options import path, seed
from model_export.demo import SHIPPED, save_demo, train_demo
from service.card import sha256

log = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Train the demo, a ResNet-18 that tells drawings apart, and write its weights: three to eight minutes."
    sub = commands.add_parser("demo", help=text, description=text)
    sub.set_defaults(run=run)
    sub.add_argument("--seed", type=seed, default=0, help="of the training and its drawings (default: 0)")
    sub.add_argument("--out", type=path, default=SHIPPED, help="the weights file (default: the one that ships)")


def run(args: argparse.Namespace) -> int:
    loaded = train_demo(args.seed)
    save_demo(loaded, args.out)
    assert loaded.accuracy is not None
    print(
        f"{args.out}: {100 * loaded.accuracy.top1:.1f} % of {loaded.accuracy.images} held-out drawings recognised; "
        f"SHA-256 {sha256(args.out)}"
    )
    return 0
