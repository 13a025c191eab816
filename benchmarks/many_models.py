"""How long a service with many models takes to be ready, and how much memory each takes.

Networks of one architecture with different random weights. Each start is timed twice: with an empty cache, and with
what was measured then.

    python -m benchmarks.many_models [--models 20] [--depth 18] [--tree DIR …] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks.machine import describe, heading, save
from benchmarks.models import CACHE
from benchmarks.processes import resident_mb
from benchmarks.serving import service
from benchmarks.tables import markdown_table
from service.runtime.model_card import Architecture
from service.runtime.model_folder import model_versions


class Start(NamedTuple):
    """Attributes:
    ready_s: seconds from the start of the process until it was ready.
    mb: resident memory then.
    """

    tree: str
    cache: str
    ready_s: float
    mb: float


def published(depth: int, models: int) -> Path:
    """A model folder with so many of them; made on first use."""
    from model_export.export.publish import publish
    from model_export.weights.random_weights import random_weights

    root = (CACHE / f"many-{depth}").resolve()
    there = {entry.name for entry in model_versions(root)} if root.exists() else set()
    for seed in tqdm(range(models), desc="publishing", disable=None):
        name = f"net-{seed:02d}"
        if name not in there:
            publish(random_weights(Architecture(depth=depth), seed=seed), root, name)
    return root


def start(root: Path, models: int, tree: Path | None, cache: Path) -> Start:
    """`cache`: a folder that exists and is empty on the first start."""
    names = ",".join(f"net-{number:02d}" for number in range(models))
    remembered = "full" if any(cache.iterdir()) else "empty"
    with service({"models-dir": root, "models": names, "cache-dir": cache}, tree) as running:
        return Start(tree.name if tree else "this", remembered, running.ready_s, resident_mb(running.pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another source tree, to compare with")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = describe()
    print(heading(machine))
    root = published(arguments.depth, arguments.models)
    found = []
    for tree in [None, *arguments.tree]:
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(2):
                found.append(start(root, arguments.models, tree, Path(cache)))
                print(found[-1])
    rows = [
        (one.tree, one.cache, f"{one.ready_s:.1f}", f"{one.mb:.0f}", f"{one.mb / arguments.models:.0f}")
        for one in found
    ]
    print(markdown_table(["source tree", "cache", "ready after s", "MB", "MB a model"], rows))
    if arguments.json:
        starts = [one._asdict() for one in found]
        save(arguments.json, machine=machine, models=arguments.models, depth=arguments.depth, starts=starts)


if __name__ == "__main__":
    main()
