"""Prefixes and proxies, other origins, and HEAD."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import URL
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.api.middleware import Forwarded
from service.app import create_app
from service.settings import Settings
from service.settings_sources import read_settings
from tests.fuzz.forms import result_of
from tests.service.api.asgi import scope_of
from tests.support.mutations import CHANGES, changed, tried
from tests.support.waiting import until_ready


@pytest.fixture
def start(tiny_dir: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts a service with these settings; its client has this address."""
    with ExitStack() as stack:

        def make(address: str = "testclient", **settings: object) -> TestClient:
            given = {"models_dir": tiny_dir, "models": ("resnet8-cifar",), "provider": "cpu", "max_batch": 1}
            app = create_app(Settings.model_validate(given | settings))
            client = TestClient(app, client=(address, 1234))
            stack.enter_context(client)
            until_ready(client)
            return client

        yield make


@pytest.mark.parametrize(
    "path", ["/", "/healthz/live", "/healthz/ready", "/models", "/docs", "/openapi.json", "/metrics"]
)
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.content


def test_head_without_a_get(client: TestClient) -> None:
    assert client.head("/classify").status_code == 405
    assert client.head("/nothing").status_code == 404


def links(client: TestClient) -> str:
    """All links that a client gets."""
    fault = client.post("/classify", content=b"").json()["type"]
    return " ".join([*client.get("/").json().values(), fault, client.get("/docs").text])


def test_links_under_a_prefix_work(start: Callable[..., TestClient], photo: bytes) -> None:
    client = start(root_path="/vision")
    for path in ("/vision/openapi.json", "/vision/static/swagger-ui.css", "POST /vision/classify", "/vision/problems/"):
        assert path in links(client)
    for path in ("/docs", "/vision/docs", "/openapi.json", "/vision/openapi.json"):  # with and without the prefix
        assert client.get(path).status_code == 200
    assert client.get("/vision/problems/empty-image").status_code == 200
    assert client.post("/vision/classify", content=photo).status_code == 200
    assert client.post("/vision/classify/", content=photo, follow_redirects=False).status_code == 200
    many = {"files": [("file", photo), ("file", b"x")]}
    assert client.post("/classify", **many).json()["images"][1]["error"]["type"] == "/vision/problems/not-an-image"
    assert client.get("/openapi.json").json()["servers"][0] == {"url": "/vision"}


def test_links_without_a_prefix(client: TestClient) -> None:
    assert "POST /classify" in links(client)
    assert "'/openapi.json'" in links(client).replace('"', "'")


FORWARDED = {"x-forwarded-prefix": "/vision/", "x-forwarded-proto": "https"}


def test_a_trusted_proxy_is_believed(start: Callable[..., TestClient]) -> None:
    client = start("10.1.2.3", trusted_proxies="192.168.0.1, 10.0.0.0/8")
    assert client.get("/", headers=FORWARDED).json()["documentation"] == "/vision/docs"
    assert client.get("/").json()["documentation"] == "/docs"  # only with the headers


def test_a_trusted_proxy_sets_the_scheme() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await PlainTextResponse("")(scope, receive, send)

    forwarded = Forwarded(app, "", [ipaddress.ip_network("10.0.0.0/8")])
    for address in ("10.1.2.3", "11.1.2.3"):
        TestClient(forwarded, client=(address, 1234)).get("/models/", headers=FORWARDED)
    assert [str(URL(scope=scope)) for scope in seen] == [
        "https://testserver/models/",
        "http://testserver/models/",
    ]


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/models", "/models/", "/v2", "/v1/models", "/nothing"]
)
def test_no_answer_names_a_host(client: TestClient, path: str, accept: str) -> None:
    """So it does not matter which host or port a proxy forwards."""
    hosts = "example.com:8443", "testserver"
    answers = [client.get(path, headers={"host": host, "accept": accept, "x-request-id": "one"}) for host in hosts]
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.1.2.3", ""), ("11.1.2.3", "10.0.0.0/8"), ("testclient", "10.0.0.0/8"), ("::1", "10.0.0.1")],
)
def test_other_clients_are_not_believed(start: Callable[..., TestClient], address: str, trusted: str) -> None:
    assert start(address, trusted_proxies=trusted).get("/", headers=FORWARDED).json()["documentation"] == "/docs"


@pytest.mark.parametrize("prefix", ["vision", "//evil.example", '/a/../b"><script>', "/a b", "/" + "\u00e9"])
def test_an_invalid_prefix_is_ignored(start: Callable[..., TestClient], prefix: str) -> None:
    client = start("10.1.2.3", trusted_proxies="10.0.0.0/8")
    assert client.get("/", headers={"x-forwarded-prefix": prefix.encode()}).json()["documentation"] == "/docs"


ANY_FORWARDED = st.fixed_dictionaries(
    {},
    optional={
        name.encode(): st.one_of(st.binary(max_size=20), CHANGES.map(lambda changes, good=good: changed(good, changes)))
        for name, good in {
            "x-forwarded-proto": b"https, http",
            "x-forwarded-prefix": b"/vision/v1/",
        }.items()
    },
)


@tried(400)
@given(headers=ANY_FORWARDED)
def test_whatever_a_proxy_forwards_is_an_address_or_ignored(headers: dict[bytes, bytes]) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    scope = scope_of("GET", "/", headers=list(headers.items()))
    app = Forwarded(nothing, "/own", [ipaddress.ip_network("127.0.0.1")])
    result_of(app(scope, None, None))  # type: ignore[arg-type]
    assert scope["scheme"] in ("http", "https")
    assert re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", scope["root_path"])


PREFLIGHT = {"origin": "https://page.example", "access-control-request-method": "POST"}


def test_other_origins_are_closed_by_default_and_open_by_a_list(start: Callable[..., TestClient], photo: bytes) -> None:
    closed = start()
    assert closed.options("/classify", headers=PREFLIGHT).status_code == 405
    assert "access-control-allow-origin" not in closed.post("/classify", content=photo, headers=PREFLIGHT).headers
    client = start(cors_origins="https://page.example,https://other.example")
    preflight = client.options("/classify", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    answer = client.post("/classify", content=photo, headers={"origin": "https://other.example"})
    assert answer.headers["access-control-allow-origin"] == "https://other.example"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"Server-Timing", "X-Request-ID", "X-Model", "X-Decoded"} <= set(exposed)
    assert client.options("/classify", headers=PREFLIGHT | {"origin": "https://evil.example"}).status_code == 400


def test_lists_are_read_from_the_environment_too() -> None:
    found = read_settings(["--trusted-proxies", "10.0.0.1,fd00::/8"], {"RESNET_CORS_ORIGINS": "x"})
    assert [str(network) for network in found.trusted_proxies] == ["10.0.0.1/32", "fd00::/8"]
