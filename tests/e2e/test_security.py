"""Who may call and what strangers learn, of the service as a process: keys, the admin port, TLS, headers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme

from benchmarks.processes import children
from tests.support.folders import copied
from tests.support.processes import JPEG, Service, answers_ready, free_port, request
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
LIGHT = {"provider": "cpu", "max_batch": 1, "models": "resnet8-cifar"}
TOKEN = "token"
KEY = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path.write_text(f'[all]\nsha256 = "{digest}"\nscopes = ["classify", "metrics"]\n')
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def ended(finished: subprocess.CompletedProcess[str], status: int, message: str) -> None:
    """Checks that a service refused to start, with this in its only line."""
    assert (finished.returncode, len(finished.stderr.splitlines())) == (status, 1), finished.stderr
    assert message in finished.stderr


def answers(url: str, context: ssl.SSLContext) -> bool:
    """Whether a service at this URL answers over TLS that it is ready."""
    try:
        return httpx.get(f"{url}/healthz/ready", verify=context).status_code == 200
    except httpx.TransportError:
        return False


# Keys.


def test_a_refused_request_is_answered_before_its_body_arrives(
    tiny_dir: Path, keys_file: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, api_keys_file=keys_file, **LIGHT)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert "resnet_request_bytes 0.0" in service.get("/metrics", headers=KEY).text


@pytest.mark.parametrize("workers", [1, 2])
def test_the_log_and_the_metrics_name_the_key(
    tiny_dir: Path, keys_file: Path, photo: bytes, start_service: Callable[..., Service], workers: int
) -> None:
    service = start_service(tiny_dir, api_keys_file=keys_file, workers=workers, **LIGHT)
    for _ in range(4):
        assert service.post("/classify", content=photo, headers=JPEG | KEY).status_code == 200
    assert service.classify(photo).status_code == 401
    assert 'resnet_key_requests_total{key="all",status="200"} 4.0' in service.get("/metrics", headers=KEY).text
    until(
        lambda: service.log.read_text().count(" POST /classify 200 in ") == 4
    )  # written once the answer has been sent
    log = service.log.read_text()
    lines = [line.split() for line in log.splitlines() if " POST /classify 200 in " in line]
    assert sum("key=all" in words for words in lines) == len(lines) == 4
    assert TOKEN not in log


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_good_keys_file_it_does_not_start(tiny_dir: Path, tmp_path: Path, workers: str) -> None:
    options = ("--models-dir", tiny_dir, "--port", "0", "--workers", workers, "--api-keys-file", tmp_path / "keys")
    ended(run(*options), 2, "cannot be read (No such file or directory): correct api_keys_file, or make the file with")
    (tmp_path / "keys").write_text("[x]\n")
    ended(run(*options), 2, "key x: sha256: Field required")


@pytest.mark.slow
def test_a_worker_that_is_replaced_while_the_keys_are_broken_comes_up_once_they_are_good(
    tiny_dir: Path, keys_file: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, api_keys_file=keys_file, workers=2, **LIGHT)
    until(lambda: "INFO service.lifecycle: ready: " in service.log.read_text())
    good = keys_file.read_text()
    keys_file.write_text("[half")
    os.kill(children(service.process.pid)[0], signal.SIGKILL)
    until(lambda: "is not TOML" in service.log.read_text())

    def classified() -> bool:
        return service.post("/classify", content=photo, headers=JPEG | KEY).status_code == 200

    until(lambda: "starting another in 1 s" in service.log.read_text())
    assert classified()  # by the other worker, with the keys of before
    keys_file.write_text(good)
    until(lambda: "listens in its place" in service.log.read_text(), 60)
    assert all(classified() for _ in range(4))
    assert "Traceback" not in service.log.read_text()


# The admin port.


def test_the_engine_process_answers_for_its_workers(
    tiny_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    port = free_port()
    service = start_service(tiny_dir, admin_port=port, workers=2, shutdown_delay=20, **LIGHT)
    admin = f"http://127.0.0.1:{port}"
    until(lambda: answers_ready(admin))
    assert service.classify(photo).status_code == 200
    text = request("GET", f"{admin}/metrics").text
    assert 'resnet_requests_total{model="resnet8-cifar",problem="",status="200"} 1.0' in text
    (started,) = (line for line in text.splitlines() if line.startswith("process_start_time_seconds "))
    ticks = int(Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot = int(next(ln.split()[1] for ln in Path("/proc/stat").read_text().splitlines() if ln.startswith("btime")))
    assert float(started.split()[1]) == pytest.approx(
        boot + ticks / os.sysconf("SC_CLK_TCK"), abs=0.1
    )  # the engine process
    assert service.get("/metrics").status_code == 404
    os.kill(service.process.pid, signal.SIGTERM)
    until(lambda: not answers_ready(admin))
    assert request("GET", f"{admin}/healthz/live").status_code == 200  # while it drains
    assert service.stop(signal.SIGTERM) == 0


def test_it_answers_until_the_end(tiny_dir: Path, start_service: Callable[..., Service]) -> None:
    port = free_port()
    service = start_service(tiny_dir, admin_port=port, shutdown_delay=20, **LIGHT)
    admin = f"http://127.0.0.1:{port}"
    assert answers_ready(admin)
    os.kill(service.process.pid, signal.SIGTERM)
    until(lambda: not answers_ready(admin))
    assert request("GET", f"{admin}/healthz/live").status_code == 200
    assert service.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_admin_port_in_use_is_one_sentence(tiny_dir: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = run("--models-dir", tiny_dir, "--port", free_port(), "--admin-port", port, "--workers", workers)
    ended(finished, 3, f"listens on 127.0.0.1 port {port}: stop it, or choose another port with --admin-port")


# TLS.


def trusted_certificate(folder: Path) -> ssl.SSLContext:
    """Writes `certificate.pem` and `key.pem` for 127.0.0.1; returns a client's context that trusts them."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("workers", [1, 2])
def test_both_ports_speak_https(
    tiny_dir: Path, tmp_path: Path, photo: bytes, start_service: Callable[..., Service], workers: int
) -> None:
    context = trusted_certificate(tmp_path)
    port = free_port()
    service = start_service(
        tiny_dir,
        ready=False,
        tls_certificate=tmp_path / "certificate.pem",
        tls_key=tmp_path / "key.pem",
        admin_port=port,
        workers=workers,
        shutdown_delay=0,
        **LIGHT,
    )
    urls = [f"https://127.0.0.1:{number}" for number in (service.port, port)]

    def ready(url: str) -> bool:
        assert service.process.poll() is None, service.log.read_text()
        return answers(url, context)

    for url in urls:
        until(lambda url=url: ready(url), 60)  # type: ignore[misc]
    answer = httpx.post(f"{urls[0]}/classify", content=photo, headers=JPEG, verify=context)
    assert answer.json()["images"][0]["predictions"]
    with pytest.raises(httpx.TransportError):  # plain HTTP
        service.get("/healthz/live")
    # A client that leaves in the middle of its request, and one that leaves while it is answered.
    for body in (b"", photo):
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(photo) + body)
            if body:
                with suppress(ssl.SSLError):  # the answer, if it was faster
                    connection.unwrap()
    assert ready(urls[0])
    assert service.stop(signal.SIGTERM) == 0
    assert "eof_received" not in service.log.read_text()
    assert "Traceback" not in service.log.read_text()


def test_the_documented_nginx_ends_tls(
    tiny_dir: Path, tmp_path: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    if shutil.which("nginx") is None:
        assert "CI" not in os.environ, "CI must have nginx: tests/install-tools installs it"
        pytest.skip("needs nginx")
    service = start_service(tiny_dir, trusted_proxies="127.0.0.1", **LIGHT)
    context = trusted_certificate(tmp_path)
    port = free_port()
    (server,) = re.findall(r"```nginx\n(server.*?)```", (ROOT / "docs" / "containers.md").read_text(), re.DOTALL)
    for documented, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx", str(tmp_path)),
        ("127.0.0.1:8000", f"127.0.0.1:{service.port}"),
    ):
        assert documented in server
        server = server.replace(documented, here)
    folders = "".join(
        f"{name}_temp_path {tmp_path / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # nginx started by root runs its workers as another user, who cannot enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    conf = f"daemon off; {user} pid {tmp_path}/pid; error_log stderr; events {{}}"
    (tmp_path / "nginx.conf").write_text(f"{conf} http {{ {folders} access_log off; {server} }}")
    with (tmp_path / "nginx.log").open("wb") as log:
        nginx = subprocess.Popen(["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], stderr=log)
    try:
        url = f"https://127.0.0.1:{port}"
        until(lambda: nginx.poll() is not None or answers(url, context))
        answer = httpx.post(f"{url}/classify", content=photo, headers=JPEG, verify=context)
        assert answer.json()["images"][0]["predictions"], (tmp_path / "nginx.log").read_text()
        assert httpx.get(f"{url}/docs", verify=context).headers["content-security-policy"]
    finally:
        nginx.terminate()
        nginx.wait(10)


def test_a_certificate_that_is_missing_is_one_sentence(tiny_dir: Path, tmp_path: Path) -> None:
    options = ("--models-dir", tiny_dir, "--port", "0", "--tls-certificate", tmp_path / "none.pem")
    ended(run(*options), 2, "none.pem cannot be read (No such file or directory): correct tls_certificate")


# What every answer has, and what none says.


def test_security_headers_are_on_every_answer(
    tiny_dir: Path, photo: bytes, start_service: Callable[..., Service]
) -> None:
    port = free_port()
    service = start_service(tiny_dir, admin_port=port, **LIGHT)
    answers = [
        service.classify(photo),
        service.classify(b"x"),
        *(
            service.get(path)
            for path in (
                "/",
                "/static/page/main.js",
                "/docs",
                "/models",
                "/nothing",
                "/static/swagger-ui.css",
                "/healthz/ready",
            )
        ),
        request("GET", f"http://127.0.0.1:{port}/metrics"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        refusal = connection.recv(10_000).lower()
    assert b"x-content-type-options: nosniff" in refusal
    assert b"server:" not in refusal


def test_strangers_learn_no_path_and_no_digest(
    tiny_dir: Path, tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    models = copied(tiny_dir, tmp_path / "my models")
    (models / "resnet8-cifar" / "1" / "model.onnx").write_bytes(b"changed")
    spy = copied(models / "resnet18", models / "spy")
    card = json.loads((spy / "1" / "card.json").read_text())
    card["name"] = "spy"
    card["files"]["fp32"]["file"] = "../../../../../../../../../../etc/passwd"
    (spy / "1" / "card.json").write_text(json.dumps(card))
    service = start_service(models, provider="cpu", max_batch=1, default_model="resnet18")
    found = service.get("/models")
    states = {model["name"]: model["reason"] for model in found.json()["models"]}
    assert "its card says …: publish the model again" in states["resnet8-cifar"]
    assert "files.fp32.file" in found.json()["unreadable"]["spy@1"]
    digest = hashlib.sha256(b"changed").hexdigest()
    passwords = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    for secret in (str(tmp_path), str(models), digest, passwords):
        assert secret not in found.text
    log = service.log.read_text()
    assert str(models) in log
    assert digest in log
    assert passwords not in log
