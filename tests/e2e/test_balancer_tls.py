"""TLS at the balancer: docker/nginx.conf with docker/listen-tls.conf and a certificate made here."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.balancer import CLASSIFY, Balancer, Known, ports, problem
from tests.support.processes import JPEG, Service, request

pytestmark = pytest.mark.e2e


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
