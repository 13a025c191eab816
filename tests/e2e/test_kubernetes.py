"""The service as Kubernetes would run it: the rendered container's command, environment, probes, hook and grace period,
with a real process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.balancer import nginx, require_nginx
from tests.support.kubelet import Container
from tests.support.manifests import KUBERNETES, Manifest, container, helm, kustomize, pod
from tests.support.processes import JPEG, STARTUP_S, request
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

KSERVE = Path(__file__).parent / "kserve_objects.py"
MODEL = "resnet8-cifar"
QUICK = {"models": MODEL, "provider": "cpu", "max_batch": 1}  # what a test need not measure first
CLIENTS = 16

Run = Callable[..., Container]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a container: `run(specification, grace_s, models_dir)`."""
    containers: list[Container] = []

    def start(specification: Manifest, grace_s: float, models_dir: Path) -> Container:
        home = tmp_path / f"container-{len(containers)}"
        folders = {path: home / path.strip("/") for path in ("/cache", "/tmp")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        folders |= {"/models": models_dir, "/mnt/models": models_dir}
        containers.append(Container(specification, grace_s, folders, home / "log", **QUICK))
        return containers[-1]

    yield start
    for one in containers:
        one.kill()


def wait_until_ready(*pods: Container) -> None:
    def all_ready() -> bool:
        for one in pods:
            assert one.running, one.log()
            assert one.faults == [], one.log()
        return all(one.ready for one in pods)

    until(all_ready, STARTUP_S)


@pytest.mark.parametrize("overlay", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])  # the latter with workers
def test_deleting_a_pod_loses_no_request(overlay: str, run: Run, tiny_dir: Path, photo: bytes) -> None:
    """Two pods under load. One is deleted, and gets requests until a second before its hook ends: until then, not every
    balancer has heard that it leaves.
    """
    rendered = kustomize(KUBERNETES / "overlays" / overlay)
    grace_s = pod(rendered)["terminationGracePeriodSeconds"]
    leaving, staying = pods = [run(container(rendered), grace_s, tiny_dir) for _ in range(2)]
    wait_until_ready(*pods)
    for one in pods:
        assert request("GET", f"{one.url}/metrics").status_code == 404  # only the admin port has them
    endpoints = list(pods)
    hook_s = container(rendered)["lifecycle"]["preStop"]["sleep"]["seconds"]
    answers: list[tuple[Container, int]] = []

    async def delete() -> tuple[int, float]:
        ending = asyncio.get_running_loop().run_in_executor(None, leaving.terminate)
        await asyncio.sleep(hook_s - 1)
        endpoints.remove(leaving)
        return await ending

    async def call(client: httpx.AsyncClient, over: asyncio.Event) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            one = endpoints[number % len(endpoints)]
            response = await client.post(f"{one.url}/classify", content=photo, headers=JPEG)
            answers.append((one, response.status_code))

    async def under_load() -> tuple[int, float]:
        over = asyncio.Event()
        limits = httpx.Limits(max_connections=2 * CLIENTS)
        async with httpx.AsyncClient(timeout=60, limits=limits, verify=False) as client:
            calls = [asyncio.create_task(call(client, over)) for _ in range(CLIENTS)]
            await asyncio.to_thread(until, lambda: {one for one, _ in answers} == set(pods), 60)
            before = len(answers)
            ended = await delete()
            assert sum(one is leaving for one, _ in answers[before:]) > CLIENTS  # it has served while its hook ran
            over.set()
            await asyncio.gather(*calls)  # raises what a client has met: a refused or broken connection
        return ended

    status, left_s = asyncio.run(under_load())
    assert status == 0, leaving.log()
    assert left_s > 0
    assert {code for _, code in answers} == {200}
    assert all(one.faults == [] for one in pods)
    assert staying.ready


@pytest.mark.slow
def test_clients_past_every_balancer_lose_no_request(run: Run, tiny_dir: Path, photo: bytes) -> None:
    """A Service moves new connections only: these clients keep theirs for as long as the deleted pod lets them."""
    rendered = helm({"shutdown": {"preStop": 1, "delay": 5}})  # each client has a request within 5 s
    grace_s = pod(rendered)["terminationGracePeriodSeconds"]
    leaving, staying = pods = [run(container(rendered), grace_s, tiny_dir) for _ in range(2)]
    wait_until_ready(*pods)
    statuses: list[int] = []

    async def call(over: asyncio.Event) -> None:
        one = leaving
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=1), verify=False) as client:
            while not over.is_set():
                response = await client.post(f"{one.url}/classify", content=photo, headers=JPEG)
                statuses.append(response.status_code)
                if response.headers.get("connection") == "close":
                    one = staying  # where a new connection leads to

    async def under_load() -> tuple[int, float]:
        over = asyncio.Event()
        calls = [asyncio.create_task(call(over)) for _ in range(CLIENTS)]
        await asyncio.to_thread(until, lambda: len(statuses) >= CLIENTS, 60)
        ended = await asyncio.get_running_loop().run_in_executor(None, leaving.terminate)
        over.set()
        await asyncio.gather(*calls)
        return ended

    status, left_s = asyncio.run(under_load())
    assert (status, left_s > 0) == (0, True), leaving.log()
    assert set(statuses) == {200}


def test_a_request_in_flight_is_finished(run: Run, tiny_dir: Path, photo: bytes) -> None:
    """Its body arrives in two parts: one before the pod is deleted, one after its port has closed."""
    rendered = helm({"shutdown": {"preStop": 1, "delay": 0}})
    one = run(container(rendered), pod(rendered)["terminationGracePeriodSeconds"], tiny_dir)
    wait_until_ready(one)

    async def slow() -> tuple[int, int]:
        closed = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield photo[:100]
            await closed.wait()
            yield photo[100:]

        async with httpx.AsyncClient(timeout=60, verify=False) as client:
            answer = asyncio.create_task(client.post(f"{one.url}/classify", content=body(), headers=JPEG))
            ending = asyncio.get_running_loop().run_in_executor(None, one.terminate)
            await asyncio.to_thread(until, lambda: not one.listens(), 60)
            closed.set()
            response = await answer
        status, _ = await ending
        return response.status_code, status

    assert asyncio.run(slow()) == (200, 0), one.log()


def test_the_balancer_tells_clients_apart_behind_an_ingress(
    run: Run, tiny_dir: Path, photo: bytes, tmp_path: Path
) -> None:
    """By the last address of X-Forwarded-For outside the cluster, if the request comes from inside."""
    require_nginx()
    rendered = helm({"balancer": {"enabled": True}})
    one = run(container(rendered), pod(rendered)["terminationGracePeriodSeconds"], tiny_dir)
    wait_until_ready(one)
    listen = rendered["ConfigMap resnet-balancer"]["data"]["listen.conf"]
    forwarded = {**JPEG, "X-Forwarded-For": "192.0.2.1, 203.0.113.9, 10.1.2.3"}
    clients = []
    for name, believed in (("stranger", ""), ("cluster", "set_real_ip_from 127.0.0.0/8;\n")):
        folder = tmp_path / name
        folder.mkdir()
        with nginx(folder, [one.port], listen=listen + believed) as balanced:
            assert balanced.post("/classify", photo, forwarded).status_code == 200
            (entry,) = balanced.entries(1)
            clients.append(entry["client"])
    assert clients == ["127.0.0.1", "203.0.113.9"]


@pytest.mark.slow
def test_kserve_serves_what_its_initializer_has_put_there(
    run: Run, tiny_dir: Path, photo: bytes, tmp_path: Path
) -> None:
    """The folder of all models, copied without empty files as from a bucket, linked as from a file system."""
    rendered = kustomize(KUBERNETES / "kserve")
    (served,) = rendered["ServingRuntime"]["spec"]["containers"]
    grace_s = rendered["InferenceService"]["spec"]["predictor"]["terminationGracePeriodSeconds"]
    copied, linked = tmp_path / "copied", tmp_path / "linked"
    for path in (path for path in tiny_dir.rglob("*") if path.is_file() and path.stat().st_size):
        to = copied / path.relative_to(tiny_dir)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    linked.mkdir()
    for path in tiny_dir.iterdir():
        (linked / path.name).symlink_to(path)
    pods = [run(served, grace_s, folder) for folder in (copied, linked)]
    wait_until_ready(*pods)
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64encode(photo).decode()]}]}
    for one in pods:
        assert request("GET", f"{one.url}/v2/health/ready").status_code == 200
        assert request("GET", f"{one.url}/metrics").status_code == 404  # the admin port is not in KServe's Service
        answer = request("POST", f"{one.url}/v2/models/{MODEL}/infer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_name"] == MODEL


def test_a_pod_that_cannot_load_ends_by_itself(run: Run, tmp_path: Path) -> None:
    """Long before the startup probe gives up, and with the reason in its log."""
    rendered = helm()
    one = run(container(rendered), pod(rendered)["terminationGracePeriodSeconds"], tmp_path / "none")
    until(lambda: not one.running, 60)
    assert not one.ready
    assert one.started is None
    assert "none" in one.log()


def test_kserves_own_models_take_the_objects() -> None:
    """In a Python of its own, named by KSERVE_PYTHON: its packages do not go together with those of `dev`."""
    python = os.environ.get("KSERVE_PYTHON")
    if not python:
        pytest.skip("KSERVE_PYTHON names no Python that has kserve")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    rendered = kustomize(KUBERNETES / "kserve")
    objects = [rendered[kind] for kind in ("ServingRuntime", "InferenceService")]

    def check(objects: list[Manifest]) -> subprocess.CompletedProcess[str]:
        command = [python, str(KSERVE)]
        return subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, env=environment)

    done = check(objects)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ServingRuntime", "InferenceService"]
    objects[1]["spec"]["predictor"]["model"]["storageURI"] = "s3://models"
    done = check(objects)
    assert done.returncode != 0
    assert "storageURI" in done.stderr
