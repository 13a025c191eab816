"""Whether a change slows the service down: two source trees, loaded over HTTP in alternating pairs.

The services of both trees serve the same model and stay up throughout, each with a tuning cache of its own. wrk loads
them in turn: baseline and current, then current and baseline, and so on. A machine that becomes slower or faster
meanwhile hardly changes the ratio within a pair.

Tuning measures, so it may choose differently at each start, and the ratio would then compare the choices. So the
provider and the largest batch are fixed by default (`--service`).

    git worktree add ../before REVISION
    (cd ../before; python -c 'import setuptools; setuptools.setup()' build_ext --inplace)
    python -m benchmarks.regression --baseline ../before [--pairs 20] [--seconds 5] [--connections 8]
                                    [--model resnet8-cifar] [--service=OPTIONS] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import RESULTS, describe, heading, save
from benchmarks.models import RESNET8, RESNET50, published
from benchmarks.photo import photo
from benchmarks.serving import Running, model_options, service
from benchmarks.tables import markdown_table
from service.runtime.choices import FilePrecision
from service.runtime.model_card import Architecture

ROOT = Path(__file__).resolve().parents[1]
TREES = ("baseline", "current")
FIGURES = {"cpu_ms": "CPU-ms per image", "images_per_second": "images/s"}
WARM_UP_S = 2
RESAMPLES = 10_000

SERVICE = "--provider=cpu --max-batch=8"
MODELS: dict[str, tuple[Architecture, FilePrecision]] = {
    RESNET8.name: (RESNET8, "fp32"),
    RESNET50.name: (RESNET50, "int8"),
}
TUNED = ("provider", "precision", "lanes", "batch_sizes")  # what tuning chooses, by its keys in /models

Sample = dict[str, float]


class Ratio(NamedTuple):
    """The current tree ÷ the baseline, over all pairs; below 1 the current tree has less."""

    median: float
    mean: float  # geometric
    low: float  # of the 95 % interval of the mean
    high: float


def compare(baseline: Sequence[float], current: Sequence[float]) -> Ratio:
    """The ratios of paired measurements, all positive.

    The interval is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of the mean logarithm, with a fixed
    seed. It is too narrow for a few pairs.
    """
    logs = np.log(np.asarray(current) / np.asarray(baseline))
    resamples = np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs)))
    low, high = np.percentile(resamples.mean(axis=1), [2.5, 97.5])
    return Ratio(*(float(np.exp(value)) for value in (np.median(logs), logs.mean(), low, high)))


def order(pair: int) -> tuple[str, ...]:
    """The trees in the order in which a pair loads them: the other way round in every second pair."""
    return TREES if pair % 2 == 0 else TREES[::-1]


def check_tree(tree: Path) -> None:
    """Raises FileNotFoundError where a source tree has no service, or no compiled extension."""
    if not (tree / "service" / "__main__.py").exists():
        raise FileNotFoundError(f"{tree} is not a source tree of the service")
    if not any((tree / "service").rglob("_resample*.so")):
        raise FileNotFoundError(
            f"{tree} has no compiled extension, so its service would resize by Pillow: run "
            "`python -c 'import setuptools; setuptools.setup()' build_ext --inplace` there"
        )


def service_options(text: str) -> dict[str, str]:
    """Parses an argument: options of the service, each as `--name=value`."""
    options = {}
    for option in shlex.split(text):
        name, equals, value = option.removeprefix("--").partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected --name=value, got {option}")
        options[name] = value
    return options


def measure(services: Mapping[str, Running], pairs: int, connections: int, seconds: int) -> list[dict[str, Sample]]:
    """The figures of every pair, by tree: CPU-milliseconds per image of all processes, and what wrk measures."""
    for running in services.values():
        wrk.run(running.url, photo(), connections=connections, seconds=WARM_UP_S)
    samples = []
    for pair in tqdm(range(pairs), unit="pair"):
        sample: dict[str, Sample] = {}
        for tree in order(pair):
            load, cpu_ms = services[tree].loaded(photo(), connections=connections, seconds=seconds)
            sample[tree] = {"cpu_ms": cpu_ms, **load._asdict()}
        samples.append(sample)
    return samples


def report(samples: Sequence[Mapping[str, Sample]]) -> tuple[str, dict[str, Ratio]]:
    """Two tables, of all pairs and of the ratios over pairs; and these ratios, by figure."""
    rows = []
    for pair, sample in enumerate(samples):
        cells = [str(pair + 1), order(pair)[0]]
        for name in FIGURES:
            baseline, current = (sample[tree][name] for tree in TREES)
            cells += [f"{baseline:.3f}", f"{current:.3f}", f"{current / baseline:.3f}"]
        rows.append(cells)
    titles = ["pair", "first"]
    for label in FIGURES.values():
        titles += [f"baseline, {label}", "current", "ratio"]
    summary, ratios = [], {}
    for name, label in FIGURES.items():
        values = {tree: [sample[tree][name] for sample in samples] for tree in TREES}
        ratios[name] = ratio = compare(values["baseline"], values["current"])
        medians = [f"{statistics.median(values[tree]):.3f}" for tree in TREES]
        interval = f"{ratio.low:.3f}–{ratio.high:.3f}"
        summary.append([label, *medians, f"{ratio.median:.3f}", f"{ratio.mean:.3f}", interval])
    summary_titles = ["", "baseline, median", "current, median", "ratio, median", "ratio, geometric mean", "95 %"]
    return f"{markdown_table(titles, rows)}\n\n{markdown_table(summary_titles, summary)}", ratios


def add_options(parser: argparse.ArgumentParser, name: str, machine: Mapping[str, str]) -> None:
    """The options of a benchmark that measures two services in alternating pairs.

    Args:
        name: of the file that it writes.
        machine: as `describe` returns it.
    """
    parser.add_argument("--pairs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: 5)")
    parser.add_argument("--connections", type=int, default=8, help="(default: 8)")
    parser.add_argument("--model", choices=MODELS, default=RESNET8.name, help="(default: %(default)s)")
    parser.add_argument(
        "--service", type=service_options, default=SERVICE, metavar="OPTIONS", help="of both (default: '%(default)s')"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=RESULTS / f"{name}-{machine['date']}.json",
        help=f"save the figures and the machine here (default: benchmarks/results/{name}-DATE.json)",
    )


def save_pairs(
    args: argparse.Namespace,
    machine: Mapping[str, str],
    samples: Sequence[Mapping[str, Sample]],
    ratios: Mapping[str, Ratio],
    **more: object,
) -> None:
    """Saves what was measured and the options of `add_options`, with `more` beside them."""
    plan = {name: getattr(args, name) for name in ("model", "pairs", "seconds", "connections", "service")}
    save(
        args.json,
        machine=machine,
        plan=plan,
        **more,
        pairs=[{"first": order(pair)[0], **sample} for pair, sample in enumerate(samples)],
        ratios={name: ratio._asdict() for name, ratio in ratios.items()},
    )


def main() -> None:
    machine = describe()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__.partition("\n")[0])
    parser.add_argument("--baseline", type=Path, required=True, metavar="TREE", help="a checkout of another revision")
    add_options(parser, "regression", machine)
    args = parser.parse_args()
    trees = dict(zip(TREES, (args.baseline.resolve(), ROOT), strict=True))
    try:
        for tree in trees.values():
            check_tree(tree)
    except FileNotFoundError as error:
        parser.error(str(error))
    options = model_options(published(*MODELS[args.model])) | args.service
    with contextlib.ExitStack() as stack:
        services: dict[str, Running] = {}
        for name, tree in trees.items():
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            services[name] = stack.enter_context(service(options | {"cache-dir": cache}, tree))
        entries = {name: running.model() for name, running in services.items()}
        tuned = {name: {key: entry[key] for key in TUNED} for name, entry in entries.items()}
        if tuned["baseline"] != tuned["current"]:
            print(f"warning: tuning chose differently for the two trees: {tuned}", file=sys.stderr)
        samples = measure(services, args.pairs, args.connections, args.seconds)
    text, ratios = report(samples)
    print(heading(machine))
    print(f"{args.model}, {args.pairs} pairs of {args.seconds} s, {args.connections} connections")
    for name, choices in tuned.items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in choices.items())}")
    print(f"\n{text}")
    save_pairs(args, machine, samples, ratios, tuned=tuned)


if __name__ == "__main__":
    main()
