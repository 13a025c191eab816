"""Correctness and speed on a GPU, in ten minutes.

The stages: the provider, HTTP, the engine, compiled PyTorch, decoding of JPEGs, the provider's options, TensorRT. Every
stage is a process of its own with a time limit, the most important one first. It saves each result at once in
`OUT/gpu-STAGE.json`: if the run is cut short or a stage crashes, earlier results remain.

    python -m benchmarks.gpu [--seconds 600] [--out benchmarks/results] [--stages provider engine]
    python -m benchmarks.gpu --device cpu --tiny      # tries the program without a GPU
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.plan import Plan, Report, machine_of
from service.runtime.providers import ProviderUnavailable
from service.runtime.self_test import SelfTestFailed

# By importance, with the most seconds that each may take. Opening an engine takes ten of them.
STAGES = {
    "provider": 160,  # of which thirty make the model, and sixty are tests
    "http": 200,
    "engine": 100,
    "compiled": 60,
    "feeding": 60,
    "experiment": 60,
    "tensorrt": 30,
}
TINY_TIMES = 10  # the time limits with --tiny, for slow and busy machines


def run_stage(name: str, plan: Plan) -> int:
    """Runs a stage in this process. Returns the exit status."""
    try:
        machine = machine_of(plan)
        report = Report(plan.out / f"gpu-{name}.json", stage=name, machine=machine, device=plan.device)
        importlib.import_module(f"benchmarks.gpu.{name}").run(plan, report)
    except (ProviderUnavailable, SelfTestFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_all(plan: Plan, stages: Sequence[str], seconds: float) -> int:
    """Runs every stage in a process of its own. Returns the exit status: 1 if a stage failed or was cut short."""
    end = time.monotonic() + seconds
    failed = []
    for name in stages:
        started, left = time.monotonic(), end - time.monotonic()
        left = min(left, STAGES[name] * (TINY_TIMES if plan.tiny else 1))
        if left <= 0:
            print(f"{name}: no time left")
            failed.append(name)
            continue
        print(f"{name}: at most {left:.0f} s", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--stage", name, "--device", plan.device]
        command += ["--out", str(plan.out), *(["--tiny"] if plan.tiny else [])]
        status = run_process(command, left)
        ended = "was cut short" if status is None else f"ended with status {status}"
        if status != 0:
            failed.append(name)
        print(f"{name}: {ended} after {time.monotonic() - started:.0f} s", flush=True)
    print(f"results: {plan.out}/gpu-*.json" + (f"; incomplete: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run_process(command: Sequence[str], seconds: float) -> int | None:
    """Runs a command. Returns its exit status; None if it was killed after `seconds`, with all that it had started."""
    with subprocess.Popen(command, process_group=0) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
        except BaseException:  # Ctrl-C, which does not reach another process group
            os.killpg(process.pid, signal.SIGKILL)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=description)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the program without a GPU")
    parser.add_argument("--tiny", action="store_true", help="a ResNet-8, and short measurements: try the program")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of all stages together (default: 600)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="the folder for results (default: %(default)s)"
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="the stages to run (default: all)"
    )
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process, without a time limit")
    args = parser.parse_args(arguments)
    plan = Plan(args.device, args.tiny, args.out)
    if args.stage:
        return run_stage(args.stage, plan)
    return run_all(plan, args.stages, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
