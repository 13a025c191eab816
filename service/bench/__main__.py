"""`resnet bench`, or `python -m service.bench`: measures a server under load."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from resnet_commands import RUNTIME_EXTRA, called, run_program
from service.bench.plot import SUFFIXES

DESCRIPTION = (
    "Measure a server: images per second, latencies and refusals. In a closed loop, each connection sends the next "
    "request once it is answered. In an open loop, requests come at random times, as from many clients, and latency "
    "counts from when a request was due."
)
CONNECTIONS = (1, 8, 32)
Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, 1 if a level had no answer, 2 if nothing could be measured, 130 after Ctrl-C."""
    return run_program(_run, arguments, RUNTIME_EXTRA, "service")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=called("service.bench"), description=DESCRIPTION)
    parser.add_argument(
        "url", metavar="URL", help="the address of a server (http://127.0.0.1:8000), or of an operation"
    )
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE",
        help="images to send in turn (default: a JPEG of 500x375 pixels)",
    )
    parser.add_argument(
        "--connections",
        type=_several(int),
        metavar="N,N",
        help="closed loop: levels, by connections (default: 1,8,32, unless --rate is given)",
    )
    parser.add_argument("--rate", type=_several(float), metavar="R,R", help="open loop: levels, by requests per second")
    parser.add_argument(
        "--seconds",
        type=_one(float),
        default=10.0,
        metavar="S",
        help="length of each level, after a second to warm up (default: 10)",
    )
    parser.add_argument("--model", metavar="NAME[@VERSION]", help="the model (default: the server's default)")
    parser.add_argument("--depth", type=_one(int), metavar="N", help="the model, by its depth")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file with an API key of the server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--plot", type=_picture, metavar="FILE", help="draw latency by percentile, as .svg or .png (the extra `plot`)"
    )
    return parser


def _one(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    def convert(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = kind("0")
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
        return number

    return convert


def _several(kind: Callable[[str], Number]) -> Callable[[str], list[Number]]:
    def convert(text: str) -> list[Number]:
        return [_one(kind)(part) for part in text.split(",")]

    return convert


def _picture(text: str) -> Path:
    if Path(text).suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither {' nor '.join(SUFFIXES)}")
    return Path(text)


def _run(arguments: Sequence[str]) -> int:
    args = make_parser().parse_args(arguments)
    if not args.connections and not args.rate:
        args.connections = list(CONNECTIONS)

    from service.bench.command import bench  # needs what an extra installs

    return bench(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
