"""Addresses of images, and tokens: what the real registry of the other tests does not ask for."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from service.fetch.registry import Reference, Registry
from service.fetch.source import FetchError

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("oci://ghcr.io/team/models:1.0", ("ghcr.io", "team/models", "1.0")),
        ("oci://localhost:5000/models", ("localhost:5000", "models", "latest")),
        (f"oci://ghcr.io/team/models@{DIGEST}", ("ghcr.io", "team/models", DIGEST)),
        (f"oci://ghcr.io/team/models:1.0@{DIGEST}", ("ghcr.io", "team/models", DIGEST)),
    ],
)
def test_an_address(url: str, parts: tuple[str, str, str]) -> None:
    assert Reference.parse(url) == parts


@pytest.mark.parametrize("url", ["oci://ghcr.io", "oci://ghcr.io/Team", "oci://ghcr.io/a@sha256:12", "oci:///models"])
def test_an_address_that_names_no_image(url: str) -> None:
    with pytest.raises(FetchError, match="names no image: give oci://REGISTRY/REPOSITORY:TAG"):
        Reference.parse(url)


class WithTokens(BaseHTTPRequestHandler):
    """A registry that gives tokens to one user, as those of the clouds do."""

    login = "Basic " + base64.b64encode(b"robot:secret").decode()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        if url.path == "/token":
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            right = asked == {"service": "models", "scope": "repository:team/models:pull"}
            self._answer(200 if right and authorization == self.login else 401, json.dumps({"token": "for-team"}))
        elif authorization == "Bearer for-team":
            self._answer(200, json.dumps({"layers": []}))
        else:
            self._answer(401, "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        challenge = f'Bearer realm="{realm}",service="models",scope="repository:team/models:pull"'
        self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), WithTokens) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def log_in(host: str, password: str, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    entry = {"username": "robot", "password": password}  # as in a secret of Kubernetes
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: entry}}))


def read(host: str) -> dict[str, object]:
    registry = Registry(Reference(host, "team/models", "1"))
    try:
        return registry.manifest("1")[0]
    finally:
        registry.close()


def test_a_token_is_fetched_with_the_login(host: str, tmp_path: Path) -> None:
    log_in(host, "secret", tmp_path)
    assert read(host) == {"layers": []}


def test_a_wrong_password_is_said(host: str, tmp_path: Path) -> None:
    log_in(host, "wrong", tmp_path)
    with pytest.raises(FetchError, match=r"\(HTTP 401 Unauthorized\): log in with `docker login"):
        read(host)


def test_a_damaged_login_is_said(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    with pytest.raises(FetchError, match=r"config\.json cannot be read .*: log in again with `docker login ghcr\.io`"):
        Registry(Reference("ghcr.io", "team/models", "1"))
