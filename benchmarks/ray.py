"""What Ray costs: `resnet classify --ray` beside one process, and Ray's proxy beside nginx.

    python -m benchmarks.ray data [--rounds 5] [--images 2000] [--engines N] [--address local] [--json FILE]
    python -m benchmarks.ray serve [--rounds 5] [--seconds 8] [--connections 32] [--address local] [--json FILE]

`data`: the same photographs, with a ResNet-50, in turns. Images per second and core of one process, and of the cluster;
each the slope between a run over a tenth of the images and one over all of them, so that starting does not count.

`serve`: two replicas of a model that is all but free to compute, behind nginx as processes, and on Ray as
deploy/ray/serve.yaml deploys them; in turns. What is left between the two is the way of a request.

Both start a cluster of this machine alone, unless an address names one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import yaml

from benchmarks.balancer import nginx
from benchmarks.bulk import classifying
from benchmarks.closed_loop import without_wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET8, RESNET50, published
from benchmarks.photo import photo
from benchmarks.ports import free_ports
from benchmarks.serving import model_options, service
from benchmarks.tables import markdown_table, spread, with_range
from service.bulk.cluster.environment import prepare
from service.runtime.machine import usable_cores

CONFIG = Path(__file__).parents[1] / "deploy" / "ray" / "serve.yaml"
REPLICAS = 2
START_S = 300


def data(args: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second and core, round by round."""
    model, cores, of_cluster = published(RESNET50, "int8"), usable_cores(), cores_of(args.address)
    on_ray = [f"--ray={args.address}", *([f"--engines={args.engines}"] if args.engines else [])]
    found: dict[str, list[float]] = {"one process": [], "Ray Data": []}
    for _ in range(args.rounds):
        found["one process"].append(classifying(model, args.images) / cores)
        found["Ray Data"].append(classifying(model, args.images, *on_ray) / of_cluster)
    return found


def cores_of(address: str) -> int:
    """The cores of a cluster."""
    if address == "local":
        return usable_cores()
    prepare(address)
    import ray  # which reads the variables that are prepared

    from service.bulk.cluster.running import connected

    with connected(address):
        return int(ray.cluster_resources()["CPU"])


@contextmanager
def behind_nginx(model: Path) -> Iterator[str]:
    with ExitStack() as stack:
        running = [stack.enter_context(service(model_options(model))) for _ in range(REPLICAS)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [int(each.root.rpartition(":")[2]) for each in running]
        yield f"http://127.0.0.1:{stack.enter_context(nginx(folder, ports))}"


@contextmanager
def on_ray(model: Path, address: str) -> Iterator[str]:
    """The deployment of deploy/ray/, with as many replicas, which share the cores as the processes do."""
    (port,) = free_ports(1)
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["args"] = {name.replace("-", "_"): str(value) for name, value in model_options(model).items()}
    application["args"] |= {"engine_threads": usable_cores(), "decode_threads": usable_cores(), "log_level": "error"}
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    deployment["ray_actor_options"]["num_cpus"] = 0.5
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        options = [f"--address={address}", f"--app-dir={CONFIG.parents[2]}"]
        prepare(address)
        process = subprocess.Popen([sys.executable, "-m", "ray.serve.scripts", "run", file.name, *options])
        try:
            _until_ready(f"http://127.0.0.1:{port}/healthz/ready", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Ray Serve did not start the deployment; its messages are above") from None
            time.sleep(0.2)


def serve(args: argparse.Namespace) -> dict[str, list[float]]:
    """Requests per second, round by round."""
    model = published(RESNET8)
    found: dict[str, list[float]] = {"nginx": [], "Ray's proxy": []}
    with Pool(4) as pool, behind_nginx(model) as balanced, on_ray(model, args.address) as proxied:
        ways = {"nginx": balanced, "Ray's proxy": proxied}
        for root in ways.values():
            without_wrk(pool, [f"{root}/classify"], photo(), args.connections, 2)
        for _ in range(args.rounds):
            for way, root in ways.items():
                load, _ = without_wrk(pool, [f"{root}/classify"], photo(), args.connections, args.seconds)
                found[way].append(load.images_per_second)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray", description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("data", "serve"))
    parser.add_argument("--address", default="local", help="of the cluster (default: local, one of this machine alone)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--images", type=int, default=2000, help="of `data`, at least 10 (default: 2000)")
    parser.add_argument("--engines", type=int, metavar="N", help="of `data` (default: Ray decides)")
    parser.add_argument("--seconds", type=int, default=8, help="of `serve`, for each level (default: 8)")
    parser.add_argument("--connections", type=int, default=32, help="of `serve` (default: 32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    machine = describe()
    print(heading(machine))
    found = data(args) if args.part == "data" else serve(args)
    unit = "images/s per core" if args.part == "data" else "requests/s"
    first, second = found.values()
    ratios = [other / one for one, other in zip(first, second, strict=True)]
    print(markdown_table(["", unit], [[name, with_range(spread(values))] for name, values in found.items()]))
    print(f"ratio: {with_range(spread(ratios), 3)}")
    if args.json:
        save(args.json, machine=machine, part=args.part, rounds=found)


if __name__ == "__main__":
    main()
