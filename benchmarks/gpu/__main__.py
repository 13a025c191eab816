"""A proof on a GPU in five minutes: the provider, its options, the engine, HTTP, feeding, TensorRT, torch.compile.

Every stage is a process of its own with a time limit, the most important one first. It saves each result as it comes,
in `OUT/gpu-STAGE.json`: a run that is cut short, or a stage that crashes, leaves what was measured until then.

    python -m benchmarks.gpu [--seconds 300] [--out benchmarks/results] [--stages provider engine]
    python -m benchmarks.gpu --device cpu --tiny      # tries the program where there is no GPU
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
from service.engine import SelfTestFailed
from service.providers import ProviderUnavailable

# In the order of what matters, with the most seconds that each may take. The first four leave the others a minute.
STAGES = {
    "provider": 80,  # of which a quarter makes the model
    "experiment": 40,
    "engine": 60,
    "http": 60,
    "feeding": 20,
    "tensorrt": 60,
    "compiled": 120,
}
TINY = 10  # times as long, on machines that are slow and busy


def run_stage(name: str, plan: Plan) -> int:
    """One stage, in this process. Returns the exit status."""
    try:
        machine = machine_of(plan)
        report = Report(plan.out / f"gpu-{name}.json", stage=name, machine=machine, device=plan.device)
        importlib.import_module(f"benchmarks.gpu.{name}").run(plan, report)
    except (ProviderUnavailable, SelfTestFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_all(plan: Plan, stages: Sequence[str], seconds: float) -> int:
    """Every stage in a process of its own. Returns the exit status: 1 if one failed or was cut short."""
    end = time.monotonic() + seconds
    failed = []
    for name in stages:
        started, left = time.monotonic(), end - time.monotonic()
        left = min(left, STAGES[name] * (TINY if plan.tiny else 1))
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
    print(f"results: {plan.out}/gpu-*.json" + (f"; not whole: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run_process(command: Sequence[str], seconds: float) -> int | None:
    """The exit status; None if it was killed after so many seconds, with everything that it had started."""
    with subprocess.Popen(command, process_group=0) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
        except BaseException:  # Ctrl-C, which a group of its own does not hear
            os.killpg(process.pid, signal.SIGKILL)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=description)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the program without a GPU")
    parser.add_argument("--tiny", action="store_true", help="a ResNet-8, and a moment for everything")
    parser.add_argument("--seconds", type=float, default=300, help="for all stages together (default: 300)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results go")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="(default: all)")
    parser.add_argument("--stage", choices=STAGES, help="one, in this process and without a limit")
    args = parser.parse_args(arguments)
    plan = Plan(args.device, args.tiny, args.out)
    if args.stage:
        return run_stage(args.stage, plan)
    return run_all(plan, args.stages, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
