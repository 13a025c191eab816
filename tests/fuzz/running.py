"""Runs a coverage-guided fuzzer (atheris) over one function.

The function gets bytes, and raises what is a fault of the service and not of the bytes. libFuzzer mutates the seeds
towards code that has not run yet, prints its figures, and writes the bytes that raised to a file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

SECONDS = 10  # that one body may take
MEGABYTES = 1500  # that the process may take


def run(function: Callable[[bytes], None], seeds: Iterable[bytes], *, max_length: int) -> None:
    """Fuzzes until `--bodies` have been tried, or one has raised. Ends the process."""
    import atheris

    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--bodies", type=int, required=True, help="how many to try")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--found", type=Path, default=Path(), help="folder for bodies that raised")
    arguments = parser.parse_args()
    arguments.found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = {
            "runs": arguments.bodies,
            "seed": arguments.seed,
            "max_len": max_length,
            "timeout": SECONDS,
            "rss_limit_mb": MEGABYTES,
            "artifact_prefix": f"{arguments.found}/",
            "print_final_stats": 1,
        }
        atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), corpus], function)
        atheris.Fuzz()
