"""A real Prometheus asks the real service, and the alerts of deploy/prometheus fire on real faults.

There, a minute takes a second (`benchmarks.prometheus`).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from benchmarks.dashboard import read_dashboard
from benchmarks.processes import children
from benchmarks.prometheus import DEPLOY, JOB, Prometheus, prometheus
from service.grpc_api.messages import ModelInferRequest
from tests.support.clients import working
from tests.support.folders import copied
from tests.support.processes import JPEG, Service, before_each_batch, free_port, request
from tests.support.prometheus import require_prometheus
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODEL = "resnet8-cifar"
SETTINGS = {"provider": "cpu", "max_batch": 1, "engine_threads": 1}
LONG_S = 240  # for alerts, on a busy machine
PAUSE_S = 0.3  # of a client that was refused

Start = Callable[..., Service]


class Watched:
    """A service with two workers and an admin port."""

    def __init__(self, start: Start, models_dir: Path, **settings: object) -> None:
        self.admin = free_port()
        self.service = start(models_dir, **{**SETTINGS, "workers": 2, "admin_port": self.admin, **settings})

    def metrics(self) -> str:
        return request("GET", f"http://127.0.0.1:{self.admin}/metrics").text


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Starts Prometheus over admin ports, waits until it has asked all of them, and stops it afterwards."""
    require_prometheus()
    stack = []

    def start(*ports: int) -> Prometheus:
        running = prometheus(tmp_path / "prometheus", ports)
        found = running.__enter__()
        stack.append(running)
        until(lambda: len(found.query("up == 1")) == len(ports), LONG_S)
        return found

    yield start
    for running in stack:
        running.__exit__(None, None, None)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file exists, every batch of the services that are started now takes a tenth of a second longer."""
    return before_each_batch(monkeypatch, tmp_path / "slow", "if on(): time.sleep(0.1)")


@contextmanager
def load(service: Service, photo: bytes, clients: int) -> Iterator[None]:
    """Clients that send one image after the other, and wait a little when they are refused."""

    def send(number: int, ended: threading.Event) -> None:
        with httpx.Client(base_url=service.url, timeout=120, verify=False) as client:
            while not ended.is_set():
                if client.post("/classify", content=photo, headers=JPEG).status_code != 200:
                    ended.wait(PAUSE_S)

    with working(clients, send):
        yield


@pytest.mark.slow
def test_overload_fires_what_tells_of_it(
    tiny_dir: Path, start_service: Start, photo: bytes, slow: Path, watch: Callable[..., Prometheus]
) -> None:
    watched = Watched(start_service, tiny_dir, models=MODEL, target_wait_ms=1000, hang_timeout=600)
    found = watch(watched.admin)
    with load(watched.service, photo, 1):
        until(lambda: found.query("job:resnet_request_errors:ratio_rate5m == 0") != [], LONG_S)
    assert found.firing() == set()
    slow.touch()
    with load(watched.service, photo, 24):
        expected = {"ResnetSaturated", "ResnetRefusing", "ResnetErrorBudgetFast"}
        until(lambda: expected <= found.firing(), LONG_S)
        others = {"ResnetNoReplicaReady", "ResnetReplicaDown", "ResnetEngineStuck", "ResnetModelFailed"}
        assert not others & found.firing()
        said = {alert["labels"]["alertname"]: alert for alert in found.alerts()}
    saturated = said["ResnetSaturated"]
    assert saturated["labels"]["model"] == MODEL
    assert re.search(
        rf"Images for {MODEL} of {JOB} wait [\d.]+(ms|s) on average", saturated["annotations"]["description"]
    )
    assert re.search(r"^resnet refuses [\d.]+% of", said["ResnetRefusing"]["annotations"]["description"])
    slow.unlink()
    until(lambda: not expected - {"ResnetErrorBudgetFast"} & found.firing(), LONG_S)


@pytest.mark.slow
def test_an_engine_that_finishes_nothing_is_stuck(
    tiny_dir: Path, start_service: Start, photo: bytes, held: Path, watch: Callable[..., Prometheus]
) -> None:
    """Its images miss their deadlines long before the alert fires, as with the default of 30 s."""
    watched = Watched(start_service, tiny_dir, models=MODEL, hang_timeout=600, request_timeout=1)
    found = watch(watched.admin)
    held.touch()
    with load(watched.service, photo, 2):
        until(lambda: "ResnetEngineStuck" in found.firing(), LONG_S)
    (stuck,) = (alert["labels"] for alert in found.alerts() if alert["labels"]["alertname"] == "ResnetEngineStuck")
    assert (stuck["model"], stuck["instance"]) == (MODEL, f"127.0.0.1:{watched.admin}")
    missed = 'resnet_images_total{outcome="deadline-missed"}'
    assert found.query(missed)[0][1] > 0
    until(lambda: [value for _, value in found.query("sum(resnet_images_in_service)")] == [0], LONG_S)
    assert "ResnetEngineStuck" in found.firing()  # also without clients
    held.unlink()
    until(lambda: "ResnetEngineStuck" not in found.firing(), LONG_S)


@pytest.mark.slow
def test_replicas_that_are_down_or_not_ready_and_versions_that_cannot_be_served(
    tiny_dir: Path, start_service: Start, tmp_path: Path, watch: Callable[..., Prometheus]
) -> None:
    models_dir = copied(tiny_dir, tmp_path / "models")
    (model,) = models_dir.glob("resnet18/1/*.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    serves = Watched(start_service, models_dir)
    waits = Watched(start_service, models_dir, models=f"{MODEL},resnet18", workers=1, ready=False)
    found = watch(serves.admin, waits.admin)
    until(lambda: found.firing() == {"ResnetModelFailed", "ResnetReplicaNotReady"}, LONG_S)
    (failed,) = (alert["labels"] for alert in found.alerts() if alert["labels"]["alertname"] == "ResnetModelFailed")
    assert (failed["model"], failed["version"]) == ("resnet18", "1")
    serves.service.stop(signal.SIGKILL)
    until(lambda: {"ResnetReplicaDown", "ResnetNoReplicaReady"} <= found.firing(), LONG_S)
    (down,) = (alert["labels"] for alert in found.alerts() if alert["labels"]["alertname"] == "ResnetReplicaDown")
    assert down["instance"] == f"127.0.0.1:{serves.admin}"


@pytest.mark.slow
def test_restarts_of_the_service_and_of_its_workers(
    tiny_dir: Path, start_service: Start, watch: Callable[..., Prometheus]
) -> None:
    watched = Watched(start_service, tiny_dir, models=MODEL)
    found = watch(watched.admin)

    def workers_die() -> bool:
        before = children(watched.service.process.pid)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(children(watched.service.process.pid)) - set(before)) == 1, LONG_S)
        return "ResnetWorkersDying" in found.firing()

    until(workers_die, LONG_S)

    def restarts() -> bool:
        started = "process_start_time_seconds"
        ((_, before),) = found.query(started)
        watched.service.stop(signal.SIGKILL)
        watched.service.start()
        until(lambda: any(value != before for _, value in found.query(started)), LONG_S)
        return "ResnetRestarting" in found.firing()

    until(restarts, LONG_S)


@pytest.mark.slow
def test_every_query_of_the_dashboard_has_an_answer(
    tiny_dir: Path, start_service: Start, photo: bytes, watch: Callable[..., Prometheus]
) -> None:
    watched = Watched(start_service, tiny_dir)
    found = watch(watched.admin)
    panels = list(read_dashboard("8s"))
    assert len(panels) > 20

    def without_data() -> list[str]:
        """Panels whose queries all find nothing, or no number. A query that fails raises."""
        answers = {panel.title: [found.query(query.expression) for query in panel.queries] for panel in panels}
        return [
            title
            for title, of in answers.items()
            if not any(math.isfinite(value) for answer in of for _, value in answer)
        ]

    with load(watched.service, photo, 2), load(watched.service, photo[:100], 1):  # the latter gets errors
        until(lambda: without_data() == [], LONG_S)


def test_the_pods_of_kubernetes_are_found_by_their_port(tiny_dir: Path, start_service: Start, tmp_path: Path) -> None:
    """Debian's Prometheus knows no Kubernetes: pods as it would report them, in the job of the example."""
    require_prometheus()
    watched = Watched(start_service, tiny_dir, models=MODEL, workers=1)
    (job,) = yaml.safe_load((DEPLOY / "kubernetes.yml").read_text())["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]

    def pod(name: str, port_name: str, label: str, phase: str = "Running") -> dict[str, object]:
        meta = {
            "pod_name": name,
            "namespace": "vision",
            "pod_container_port_name": port_name,
            "pod_label_app_kubernetes_io_name": label,
            "pod_label_app_kubernetes_io_instance": "cats",
            "pod_phase": phase,
        }
        labels = {f"__meta_kubernetes_{key}": value for key, value in meta.items()}
        return {"targets": [f"127.0.0.1:{watched.admin}"], "labels": labels}

    job["static_configs"] = [
        pod("resnet-1", "admin", "resnet"),
        pod("resnet-1", "http", "resnet"),
        pod("other-1", "admin", "other"),
        pod("resnet-0", "admin", "resnet", "Succeeded"),
        pod("resnet-2", "admin", "resnet", "Pending"),
    ]
    with prometheus(tmp_path / "prometheus", [], job) as found:
        until(lambda: [target["health"] for target in found.targets()] == ["up"], LONG_S)
        ((labels, ready),) = found.query("resnet_ready")
        assert (labels["job"], labels["instance"], ready) == (f"{JOB}/vision/cats", "resnet-1", 1)
        assert (labels["namespace"], labels["pod"]) == ("vision", "resnet-1")  # for the autoscaler


def test_metrics_follow_prometheus_conventions(tiny_dir: Path, start_service: Start, photo: bytes) -> None:
    require_prometheus()
    for workers in (1, 2):
        watched = Watched(start_service, tiny_dir, workers=workers)
        assert watched.service.classify(photo).status_code == 200
        assert watched.service.classify(b"nonsense").status_code == 422
        text = watched.metrics()
        finished = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_clients_cannot_make_series(tiny_dir: Path, start_service: Start, photo: bytes, tmp_path: Path) -> None:
    """Whatever paths, methods, models, keys, parameters and headers they invent."""
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[prometheus]\nsha256 = "{hashlib.sha256(b"token").hexdigest()}"\nscopes = ["metrics"]\n')
    grpc_port = free_port()
    options = {"api_keys_file": keys, "anonymous_classify": True, "workers": 1, "grpc_port": grpc_port}
    watched = Watched(start_service, tiny_dir, **options)
    service = watched.service

    def series() -> set[str]:
        url = f"http://127.0.0.1:{watched.admin}/metrics"
        lines = request("GET", url, headers={"X-API-Key": "token"}).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    def invent(number: int) -> None:
        name = f"invented{number}"
        for path in (
            name,
            f"classify/{name}",
            f"models/{name}",
            f"problems/{name}",
            f"v2/models/{name}",
            f"static/{name}",
        ):
            assert service.get(f"/{path}").status_code in (404, 405)
        for path in (f"v2/models/{name}/infer", f"v1/models/{name}:predict", f"predictions/{name}"):
            assert service.post(f"/{path}", content=photo).status_code in (400, 404, 415)
        for query in (f"model={name}", f"depth={1000 + number}", f"{name}=1", f"top_k={name}"):
            assert service.classify(photo, f"?{query}").status_code in (400, 404, 422)
        assert service.classify(name.encode()).status_code == 422
        assert request(name.upper(), f"{service.url}/classify").status_code == 400
        for header in ("X-Request-ID", "Host", "User-Agent", "Origin", f"X-{name}"):
            assert service.post("/classify", content=photo, headers={**JPEG, header: name}).status_code == 200
        for header in ("X-API-Key", "X-Request-Timeout-Ms", "Content-Type", "Content-Encoding"):
            answer = service.post("/classify", content=photo, headers={**JPEG, header: name})
            assert answer.status_code < 500
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(f"{name} nonsense\r\n\r\n".encode())
            assert b" 400 " in connection.recv(1000)
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            for method in (f"/inference.GRPCInferenceService/{name}", f"/{name}/ModelInfer"):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(b"")
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for metadata in ((), (("x-api-key", name),), ((f"x-{name}", name),)):
                with pytest.raises(grpc.RpcError):
                    infer(ModelInferRequest(model_name=name).SerializeToString(), metadata=metadata)

    series()  # which is a request, too
    invent(0)
    before = series()
    for number in range(1, 10):
        invent(number)
    assert series() == before
    assert not any("invented" in each.lower() for each in before)
