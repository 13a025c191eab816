"""Two replicas behind nginx with docker/nginx.conf: one service to clients, with the limits of each replica."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.problems import document
from service.errors import RequestTooLarge
from service.settings import Settings
from tests.support.balancer import CLASSIFY, MODEL, Balancer, Known, load, ports, problem, wrong
from tests.support.processes import JPEG, Service, request
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

MAX_BYTES = Settings.model_fields["max_request_bytes"].default


def served(replica: Service) -> int:
    """How many requests a replica has answered with 200, by its own count."""
    text = replica.get("/metrics").text
    return int(
        float(re.findall(rf'^resnet_requests_total{{model="{MODEL}",problem="",status="200"}} (\S+)$', text, re.M)[0])
    )


def test_the_load_is_shared_and_every_answer_is_right(
    replicas: list[Service], known: list[Known], balance: Callable[..., Balancer]
) -> None:
    assert len(known) >= 3
    balancer = balance(ports(replicas))
    for replica in replicas:  # the first answer creates the counters
        replica.classify(known[0].jpeg).raise_for_status()
    before = [served(replica) for replica in replicas]

    answers = load(balancer, known, iter(range(500)))

    assert wrong(answers) == []
    shares = [served(replica) - count for replica, count in zip(replicas, before, strict=True)]
    assert sum(shares) == len(answers) == 500
    assert min(shares) > 125, shares


def test_an_overload_reaches_the_client_as_the_service_reports_it(
    known: list[Known], start_replica: Callable[..., Service], balance: Callable[..., Balancer]
) -> None:
    pair = [start_replica(target_wait_ms=0.001, ready=False) for _ in range(2)]
    for replica in pair:
        replica.wait_until_ready()
    balancer = balance(ports(pair))

    statuses = {answer.status for answer in load(balancer, known, iter(range(300)))}
    assert statuses == {200, 503}  # no 502: nginx keeps sending to an overloaded replica

    overloaded = [entry for entry in balancer.entries(300) if entry["status"] == 503]
    assert {entry["upstream_status"] for entry in overloaded} == {"503, 503"}  # of both replicas


def test_a_large_upload_is_classified(replicas: list[Service], balance: Callable[..., Balancer]) -> None:
    balancer = balance(ports(replicas))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    jpeg = buffer.getvalue()
    assert len(jpeg) > 3 * 2**20  # more than nginx keeps in memory

    direct, balanced = replicas[0].classify(jpeg, "?top_k=1"), balancer.post(CLASSIFY, jpeg)
    assert balanced.status_code == 200
    assert balanced.json() == direct.json()


def test_balancer_and_service_have_the_same_limits(replicas: list[Service], balance: Callable[..., Balancer]) -> None:
    balancer = balance(ports(replicas))
    form = {"Content-Type": "multipart/form-data; boundary=b"}

    too_large = balancer.post("/classify", bytes(MAX_BYTES + 1), form)
    expected = document(RequestTooLarge(max_bytes=MAX_BYTES), request_id=too_large.headers["x-request-id"])
    assert too_large.status_code == 413
    assert problem(too_large) == expected

    # With one byte less the service decides, and its answer comes through unchanged.
    fits = balancer.post("/classify", bytes(MAX_BYTES), form)
    assert problem(fits)["type"] == "/problems/malformed-request"
    image = balancer.post("/classify", bytes(30 * 2**20))
    assert problem(image)["type"] == "/problems/image-too-large"


def test_silent_replicas_are_a_timeout(balance: Callable[..., Balancer]) -> None:
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(2):
            # The backlog is full and nobody accepts: like the address of a container that is gone.
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            silent.append(listener.getsockname()[1])
            stack.enter_context(socket.create_connection(("127.0.0.1", silent[-1])))
        balancer = balance(silent)
        response = balancer.get("/", timeout=30)
    assert problem(response)["title"] == "Gateway Timeout"


def test_headers_pass_and_internal_paths_are_hidden(
    replicas: list[Service], known: list[Known], balance: Callable[..., Balancer]
) -> None:
    balancer = balance(ports(replicas))
    response = balancer.post(CLASSIFY, known[0].jpeg, {**JPEG, "X-Request-ID": "order-66"})
    assert "inference;dur=" in response.headers["server-timing"]
    assert response.headers.get_list("x-request-id") == ["order-66"]
    line = "[order-66] POST /classify 200 in "  # which is written once the answer has been sent
    until(lambda: sum(line in replica.log.read_text() for replica in replicas) == 1)
    unsafe = balancer.get("/models", headers={"X-Request-ID": 'a"b'})
    assert re.fullmatch("[0-9a-f]{32}", unsafe.headers["x-request-id"])

    for path in ("/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6Detrics", "/vision/metrics"):
        assert problem(balancer.get(path))["status"] == 404
    prefixed = {"X-Forwarded-Prefix": "/vision"}  # of the client's own
    assert problem(balancer.get("/vision/metrics", headers=prefixed))["status"] == 404
    assert problem(balancer.get("/vision/models", headers=prefixed))["status"] == 404
    named = {"X-Request-ID": "order-67"}
    nothing = problem(balancer.get("/nothing-here", headers=named))
    assert nothing == problem(replicas[0].get("/nothing-here", headers=named))
    assert [entry["id"] for entry in balancer.entries(1)][:1] == ["order-66"]

    too_long = balancer.get("/models", headers={"X-Long": "x" * 40_000})
    assert problem(too_long)["title"] == "Request Header Fields Too Large"
    assert too_long.status_code == 431
    assert re.fullmatch("[0-9a-f]{32}", too_long.headers["x-request-id"])  # of what nginx answers itself, too


# TLS: docker/listen-tls.conf, with a certificate made here.


@pytest.fixture
def trusting(tmp_path: Path) -> ssl.SSLContext:
    """Puts a self-signed certificate where the balancer looks for one; trusts this one and no other."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path / "tls"
    folder.mkdir()
    certificate = folder / "certificate.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 1 -subj /CN=balancer"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made.split(), *files], check=True, capture_output=True)
    return ssl.create_default_context(cafile=certificate)


def test_requests_are_answered_over_tls_only(
    trusting: ssl.SSLContext, replicas: list[Service], known: list[Known], balance: Callable[..., Balancer]
) -> None:
    balancer = balance(ports(replicas), tls=True)
    with httpx.Client(verify=trusting, base_url=balancer.url) as client:
        response = client.post(CLASSIFY, content=known[0].jpeg, headers=JPEG)
        assert response.json()["images"][0]["predictions"][0]["class_id"] == known[0].class_id
        assert response.headers["strict-transport-security"] == "max-age=31536000"
        assert "x-request-id" in response.headers
        assert response.extensions["network_stream"].get_extra_info("ssl_object").version() == "TLSv1.3"

    plain = request("GET", f"http://127.0.0.1:{balancer.port}/models")
    assert plain.status_code == 400
    assert problem(plain)["title"] == "Bad Request"
