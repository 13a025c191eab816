"""The deployment of deploy/ray/ on a real node: two replicas, one of them killed under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.processes import JPEG, answers_ready, free_port, request
from tests.support.ray_cluster import ENVIRONMENT, ROOT, Cluster
from tests.support.waiting import until

pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
PATIENCE_S = 600
AGAIN_S = 0.2


def edited(models_dir: Path, port: int) -> dict[str, Any]:
    """The file of deploy/, for this machine."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["args"] = {"models_dir": str(models_dir), "provider": "cpu", "precision": "fp32", "max_batch": 4}
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"]["max_replicas"] = 2
    deployment["ray_actor_options"]["num_cpus"] = 1
    # a busy machine may be slow without being hung
    deployment["health_check_timeout_s"] = 120
    return config


def replicas(cluster: Cluster) -> list[int]:
    """Processes of the deployment, on the cluster's head."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:resnet:Replica") and os.getsid(pid) == cluster.head.pid:
                found.append(pid)
        except OSError:  # it has just ended
            continue
    return found


@pytest.fixture(scope="module")
def deployed(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Cluster]]:
    """The URL of a deployment of two replicas, and its cluster."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    (folder / "serve.yaml").write_text(yaml.safe_dump(edited(tiny_dir, port)))
    url = f"http://127.0.0.1:{port}"
    with Cluster(4) as cluster, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(folder / "serve.yaml")]
        command += [f"--address={cluster.address}", f"--app-dir={ROOT}"]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            until(lambda: process.poll() is not None or answers_ready(url), PATIENCE_S)
            assert process.poll() is None, (folder / "log").read_text()
            until(lambda: len(replicas(cluster)) == 2, PATIENCE_S)
            yield url, cluster
        finally:
            process.kill()
            process.wait()


def test_it_is_the_same_service(deployed: tuple[str, Cluster], photo: bytes) -> None:
    url, _ = deployed
    answer = request("POST", f"{url}/classify", content=photo, headers=JPEG)
    assert answer.status_code == 200
    assert answer.json()["images"][0]["predictions"]
    refused = request("POST", f"{url}/classify", content=b"text", headers=JPEG)
    assert refused.json()["type"] == "/problems/not-an-image"
    assert request("GET", f"{url}/models").status_code == 200


def test_a_replica_is_killed_under_load(deployed: tuple[str, Cluster], photo: bytes) -> None:
    url, cluster = deployed
    outcomes: Counter[object] = Counter()
    answered: Counter[int] = Counter()
    stop = time.monotonic() + PATIENCE_S
    enough = threading.Event()

    def client(number: int) -> None:
        """Sends an image again until it is answered, as docs/ray.md says."""
        with httpx.Client(timeout=PATIENCE_S) as session:
            while not enough.is_set() and time.monotonic() < stop:
                while True:
                    try:
                        status: object = session.post(f"{url}/classify", content=photo, headers=JPEG).status_code
                    except httpx.TransportError as error:
                        status = type(error).__name__
                    outcomes[status] += 1
                    if status == 200 or time.monotonic() > stop:
                        break
                    time.sleep(AGAIN_S)
                answered[number] += status == 200

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for each in clients:
        each.start()
    try:
        until(lambda: sum(answered.values()) > 50, PATIENCE_S)
        before = replicas(cluster)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: set(replicas(cluster)) - set(before) != set(), PATIENCE_S)  # Ray starts another one
        now = Counter(answered)
        until(lambda: all(answered[number] > now[number] + 5 for number in range(8)), PATIENCE_S)
    finally:
        enough.set()
        for each in clients:
            each.join()
    # Every request was answered in the end: with what the proxy says of a replica that dies, or at once.
    assert outcomes.keys() <= {200, 500, 503, "RemoteProtocolError", "ReadError"}, outcomes
    assert outcomes[200] == sum(answered.values())
    print(f"answers of the proxy: {dict(outcomes)}")
