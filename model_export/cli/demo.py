"""The `demo` command: trains the demo network again and writes its weights."""

from __future__ import annotations

import argparse

from model_export.cli.options import path, seed
from model_export.demo import SHIPPED, save_demo, train_demo
from service.runtime.measured import Accuracy
from service.runtime.model_folder import sha256


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=seed, default=0, help="seed of the training and its drawings (default: 0)")
    parser.add_argument(
        "--out", type=path, default=SHIPPED, help="weight file to write (default: the file that ships with the project)"
    )


def run(args: argparse.Namespace) -> int:
    loaded = train_demo(args.seed)
    save_demo(loaded, args.out)
    assert isinstance(loaded.accuracy, Accuracy)
    print(
        f"{args.out}: {100 * loaded.accuracy.top1:.1f} % of {loaded.accuracy.images} held-out drawings classified "
        f"correctly; SHA-256 {sha256(args.out)}"
    )
    return 0
