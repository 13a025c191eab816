"""Addresses of images, and tokens: what the real registry of the other tests does not ask for."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from service.fetch.registry import Manifest, Reference, Registry
from service.fetch.source import FetchError
from tests.service.fetch.answers import Answer, server

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


@pytest.mark.parametrize(
    "url",
    [
        "oci://ghcr.io",
        "oci://ghcr.io/Team",
        "oci://ghcr.io/a@sha256:12",
        "oci:///models",
        "oci://ghcr.io:port/models",
        "oci://[::1/models",
        "oci://user:password@ghcr.io/models",
        "oci://ghcr.io?x/models",
    ],
)
def test_an_address_that_names_no_image(url: str) -> None:
    with pytest.raises(FetchError, match="names no image: give oci://REGISTRY/REPOSITORY:TAG"):
        Reference.parse(url)


@pytest.mark.parametrize("host", ["xn--", "[::::]"])
def test_a_name_that_no_host_can_have(host: str, run: Callable[..., Any]) -> None:
    fetched = run(f"oci://{host}/models")
    assert fetched.status == 1
    assert f"error: {host} gives no answer that can be used (" in fetched.err
    assert "): correct the address, or ask its operators" in fetched.err


class WithTokens(BaseHTTPRequestHandler):
    """A registry that gives tokens to one user, as those of the clouds do."""

    login = "Basic " + base64.b64encode(b"robot:secret").decode()
    given: list[str | None]  # the header of each request

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        self.given.append(authorization)
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
    WithTokens.given = []
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


def read(host: str) -> Manifest:
    registry = Registry(Reference(host, "team/models", "1"))
    try:
        return registry.manifest("1")[0]
    finally:
        registry.close()


def test_a_token_is_fetched_with_the_login(host: str, tmp_path: Path) -> None:
    log_in(host, "secret", tmp_path)
    assert read(host) == Manifest()


def test_a_wrong_password_is_said(host: str, tmp_path: Path) -> None:
    log_in(host, "wrong", tmp_path)
    with pytest.raises(FetchError, match=r"\(HTTP 401 Unauthorized\): log in with `docker login"):
        read(host)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"auths": []}', "auths: "),
        ('{"auths": {"ghcr.io": "secret"}}', "auths: ghcr.io: "),
        ('{"auths": {"ghcr.io": {"auth": "line\\nbreak"}}}', "auths: ghcr.io: auth: "),
    ],
)
def test_a_damaged_login_is_said(config: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(config)
    with pytest.raises(
        FetchError, match=rf"config\.json cannot be read \(.*{fault}.*\): log in again with `docker login ghcr\.io`"
    ):
        Registry(Reference("ghcr.io", "team/models", "1"))


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        '{"auths": null}',
        '{"auths": {"HOST": {}}, "credsStore": "pass"}',
        '{"auths": {"ghcr.io": {"username": "robot", "password": "secret"}}}',
    ],
)
def test_nobody_has_logged_in(config: str, host: str, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(config.replace("HOST", host))
    with pytest.raises(FetchError, match="401"):
        read(host)
    assert set(WithTokens.given) == {None}


def challenge(realm: str) -> Answer:
    return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})


MANIFEST, TOKEN = "/v2/team/models/manifests/1", "/token"
USELESS = "gives no answer that can be used"
NO_MANIFEST = "/team/models:1 is no manifest that can be read here"
NO_TOKEN = "/token gives no token that can be read"


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ({MANIFEST: Answer(200, b"<html>Sign in</html>")}, f"{NO_MANIFEST} (Invalid JSON: "),
        ({MANIFEST: Answer(200, b"[]")}, f"{NO_MANIFEST} ("),
        ({MANIFEST: Answer(200, b'{"layers": [{"size": 1}]}')}, f"{NO_MANIFEST} (layers: 0: digest: Field required)"),
        ({MANIFEST: Answer(200, b'{"layers": [{"digest": "sha256:../../models", "size": 1}]}')}, "layers: 0: digest: "),
        ({MANIFEST: Answer(200, b'{"manifests": [{"digest": "1", "size": 1}]}')}, "manifests: 0: digest: "),
        ({MANIFEST: Answer(200, b"{}")}, "has no layers, so no models: push a model folder"),
        ({MANIFEST: Answer(302, headers={"Location": MANIFEST})}, f"{USELESS} (Exceeded maximum allowed redirects.)"),
        ({MANIFEST: Answer(200, b"plain", {"Content-Encoding": "gzip"})}, f"{USELESS} ("),
        ({MANIFEST: challenge("https://host:port")}, f"{USELESS} ("),
        ({MANIFEST: challenge("http://HOST/token"), TOKEN: Answer(200, b"<html>")}, f"{NO_TOKEN} (Invalid JSON: "),
        ({MANIFEST: challenge("http://HOST/token"), TOKEN: Answer(200, b'{"token": "a b"}')}, f"{NO_TOKEN} (token: "),
        ({MANIFEST: challenge("http://HOST/token"), TOKEN: Answer(200, b"{}")}, f"{NO_TOKEN} (token: "),
        ({MANIFEST: challenge("http://HOST/token"), TOKEN: Answer(403)}, "(HTTP 401 Unauthorized): log in with "),
    ],
)
def test_an_answer_that_no_registry_gives_is_named(
    answers: Mapping[str, Answer], fault: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    with server(answers) as host:
        fetched = run(f"oci://{host}/team/models:1")
    assert fetched.status == 1
    assert fault in fetched.err
    assert len(fetched.err.splitlines()) == 1  # and it was not tried again
    assert not (tmp_path / "models" / ".fetching").exists()
