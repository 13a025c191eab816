"""Whether a change slows the service down: two source trees, loaded over HTTP in alternating pairs.

The services of both trees serve the same model, each with a tuning cache of its own. wrk loads them in turn: baseline
and current, then current and baseline, and so on. A machine that becomes slower or faster meanwhile hardly changes the
ratio within a pair. Two processes of the same tree differ, too, by some percent and as long as they live (where their
memory lies, how their dictionaries hash), so both are started anew several times.

Tuning measures, so it may choose differently at each start, and the ratio would then compare the choices. So the
provider and the largest batch are fixed by default (`--service`).

    git worktree add ../before REVISION
    (cd ../before; python -c 'import setuptools; setuptools.setup()' build_ext --inplace)
    python -m benchmarks.regression --baseline ../before [--starts 10] [--pairs 40] [--seconds 3] [--connections 8]
                                    [--model resnet8-cifar] [--service=OPTIONS] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

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


def compare(baseline: Sequence[float], current: Sequence[float], starts: int | None = None) -> Ratio:
    """The ratios of paired measurements, all positive.

    The interval is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of the mean logarithm, with a fixed
    seed. It is too narrow for a few starts.

    Args:
        starts: of the services, with as many pairs each: what is drawn in the bootstrap. Each pair by itself if None.
    """
    logs = np.log(np.asarray(current) / np.asarray(baseline))
    means = logs.reshape(starts or len(logs), -1).mean(axis=1)
    resamples = np.random.default_rng(0).choice(means, (RESAMPLES, len(means)))
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


def measure(
    start: Callable[[], AbstractContextManager[Mapping[str, Running]]], args: argparse.Namespace
) -> list[dict[str, Sample]]:
    """The figures of every pair, by tree: CPU-milliseconds per image of all processes, and what wrk measures.

    Args:
        start: starts the services, by tree.
        args: as of `add_options`.
    """
    samples: list[dict[str, Sample]] = []
    with tqdm(total=args.pairs, unit="pair") as progress:
        for _ in range(args.starts):
            with start() as services:
                for running in services.values():
                    wrk.run(running.url, photo(), connections=args.connections, seconds=WARM_UP_S)
                for _ in range(args.pairs // args.starts):
                    sample: dict[str, Sample] = {}
                    for tree in order(len(samples)):
                        load, cpu_ms = services[tree].loaded(
                            photo(), connections=args.connections, seconds=args.seconds
                        )
                        sample[tree] = {"cpu_ms": cpu_ms, **load._asdict()}
                    samples.append(sample)
                    progress.update()
    return samples


def report(samples: Sequence[Mapping[str, Sample]], starts: int) -> tuple[str, dict[str, Ratio]]:
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
        ratios[name] = ratio = compare(values["baseline"], values["current"], starts)
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
    parser.add_argument("--starts", type=int, default=10, help="of both services (default: 10)")
    parser.add_argument("--pairs", type=int, default=40, help="of all starts together (default: 40)")
    parser.add_argument("--seconds", type=int, default=3, help="of each load (default: 3)")
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


def plan(args: argparse.Namespace) -> str:
    """What was done, in a line."""
    loads = f"{args.pairs} pairs of {args.seconds} s, {args.connections} connections"
    return f"{args.model}, {args.starts} starts, {loads}"


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of `add_options` and others. Ends the program if they do not go together."""
    args = parser.parse_args()
    if args.starts < 1 or args.pairs < args.starts or args.pairs % args.starts:
        parser.error(f"{args.pairs} pairs cannot be shared among {args.starts} starts: give a multiple of it")
    return args


def save_pairs(
    args: argparse.Namespace,
    machine: Mapping[str, str],
    samples: Sequence[Mapping[str, Sample]],
    ratios: Mapping[str, Ratio],
    **more: object,
) -> None:
    """Saves what was measured and the options of `add_options`, with `more` beside them."""
    given = {name: getattr(args, name) for name in ("model", "starts", "pairs", "seconds", "connections", "service")}
    save(
        args.json,
        machine=machine,
        plan=given,
        **more,
        pairs=[{"first": order(pair)[0], **sample} for pair, sample in enumerate(samples)],
        ratios={name: ratio._asdict() for name, ratio in ratios.items()},
    )


def main() -> None:
    machine = describe()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__.partition("\n")[0])
    parser.add_argument("--baseline", type=Path, required=True, metavar="TREE", help="a checkout of another revision")
    add_options(parser, "regression", machine)
    args = parsed(parser)
    trees = dict(zip(TREES, (args.baseline.resolve(), ROOT), strict=True))
    try:
        for tree in trees.values():
            check_tree(tree)
    except FileNotFoundError as error:
        parser.error(str(error))
    options = model_options(published(*MODELS[args.model])) | args.service
    tuned: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        caches = {name: stack.enter_context(tempfile.TemporaryDirectory()) for name in trees}

        @contextlib.contextmanager
        def start() -> Iterator[Mapping[str, Running]]:
            with contextlib.ExitStack() as both:
                services = {
                    name: both.enter_context(service(options | {"cache-dir": caches[name]}, tree))
                    for name, tree in trees.items()
                }
                for name, running in services.items():
                    entry = running.model()
                    tuned[name] = {key: entry[key] for key in TUNED}
                if tuned["baseline"] != tuned["current"]:
                    print(f"warning: tuning chose differently for the two trees: {tuned}", file=sys.stderr)
                yield services

        samples = measure(start, args)
    text, ratios = report(samples, args.starts)
    print(heading(machine))
    print(plan(args))
    for name, choices in tuned.items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in choices.items())}")
    print(f"\n{text}")
    save_pairs(args, machine, samples, ratios, tuned=tuned)


if __name__ == "__main__":
    main()
