"""Who may call: with and without keys, at routes of every scope."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.testclient import TestClient
from starlette.types import Message

from service.api import problems
from service.api.guard import Guard
from service.app import create_app
from service.keys import Scope
from service.logs import ACCESS
from service.metrics import Metrics
from service.settings import Settings
from tests.fuzz.forms import result_of
from tests.service.api.asgi import answer, scope_of
from tests.service.api.client import as_bearer, entry, problem
from tests.support.mutations import CHANGES, changed, tried
from tests.support.waiting import until, until_ready


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(
        entry("user", '"classify"')
        + entry("operator", '"admin"')
        + entry("prometheus", '"metrics"')
        + entry("slow", '"classify"', "rate = 0.001\nburst = 2")
        + entry("single", '"classify"', "concurrency = 1")
    )
    return path


@pytest.fixture
def start(tiny_dir: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts applications with these settings."""
    with ExitStack() as stack:

        def make(**settings: object) -> TestClient:
            given = {"models_dir": tiny_dir, "models": "resnet8-cifar", "provider": "cpu", "max_batch": 1}
            client = TestClient(create_app(Settings.model_validate(given | settings)), raise_server_exceptions=False)
            stack.enter_context(client)
            until_ready(client)
            return client

        yield make


def counted(client: TestClient, metric: str) -> dict[str, float]:
    """The samples of a metric, by their labels as they are written."""
    lines = client.get("/metrics", headers=as_bearer("prometheus")).text.splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(f"{metric}{{"))
    return {name.removeprefix(metric): float(value) for name, _, value in found}


# The classification.


def test_without_keys_everybody_may_classify_at_no_cost(start: Callable[..., TestClient], photo: bytes) -> None:
    client = start()
    assert client.post("/classify", content=photo).status_code == 200
    assert client.post("/classify", content=photo, headers=as_bearer("anything")).status_code == 200
    assert client.get("/metrics").status_code == 200
    assert counted(client, "resnet_key_requests_total") == {}
    operation = client.get("/openapi.json").json()["paths"]["/classify"]["post"]
    assert not operation.keys() & {"security"}
    assert not operation["responses"].keys() & {"401", "403", "429"}

    async def handler(request: object) -> Any:
        raise NotImplementedError

    assert Guard(Settings(), Metrics()).protect("classify", handler) is handler


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer user"},
        {"authorization": "bearer  user "},
        {"x-api-key": "user"},
        {"authorization": "Bearer user", "x-api-key": "user"},
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "user"},  # of a proxy
    ],
)
def test_a_key_opens(start: Callable[..., TestClient], keys_file: Path, photo: bytes, headers: dict[str, str]) -> None:
    client = start(api_keys_file=keys_file)
    assert client.post("/classify", content=photo, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, 'Bearer realm="resnet"'),
        ({"authorization": "Basic dXNlcjpwYXNz"}, 'Bearer realm="resnet"'),
        ({"authorization": "Bearer nobody"}, 'Bearer realm="resnet", error="invalid_token"'),
        ({"authorization": "Bearer"}, 'Bearer realm="resnet", error="invalid_token"'),
        ({"x-api-key": ""}, 'Bearer realm="resnet", error="invalid_token"'),
        ({"x-api-key": b"\xff"}, 'Bearer realm="resnet", error="invalid_token"'),
        ({"authorization": "Bearer user", "x-api-key": "other"}, 'Bearer realm="resnet", error="invalid_token"'),
    ],
)
def test_without_a_valid_key_it_is_closed(
    start: Callable[..., TestClient], keys_file: Path, photo: bytes, headers: dict[str, Any], challenge: str
) -> None:
    client = start(api_keys_file=keys_file)
    response = client.post("/classify", content=photo, headers=headers)
    problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == challenge
    assert not {"nobody", "user", "other"} & set(response.text.split())


@pytest.mark.parametrize("path", ["/classify", "/classify/", "/classify//", "/vision/classify", "/vision/classify/"])
def test_no_spelling_of_the_path_leads_around_the_guard(
    start: Callable[..., TestClient], keys_file: Path, photo: bytes, path: str
) -> None:
    client = start(api_keys_file=keys_file, root_path="/vision")
    assert client.post(path, content=photo).status_code == 401
    assert client.post(path, content=photo, headers=as_bearer("user")).status_code == 200


def test_a_key_without_the_scope_is_refused(start: Callable[..., TestClient], keys_file: Path, photo: bytes) -> None:
    client = start(api_keys_file=keys_file)
    response = client.post("/classify", content=photo, headers=as_bearer("operator"))
    assert "lacks the scope classify" in problem(response, 403, "forbidden")["detail"]
    challenge = 'Bearer realm="resnet", error="insufficient_scope", scope="classify"'
    assert response.headers["www-authenticate"] == challenge


def test_anonymous_classification_beside_keys(start: Callable[..., TestClient], keys_file: Path, photo: bytes) -> None:
    client = start(api_keys_file=keys_file, anonymous_classify=True)
    for headers, status in (({}, 200), (as_bearer("user"), 200), (as_bearer("operator"), 200), (as_bearer("x"), 401)):
        assert client.post("/classify", content=photo, headers=headers).status_code == status
    assert client.get("/metrics").status_code == 401


def test_what_stays_open(start: Callable[..., TestClient], keys_file: Path) -> None:
    client = start(api_keys_file=keys_file)
    for path in ("/", "/healthz/live", "/healthz/ready", "/models", "/docs", "/openapi.json", "/problems/no-image"):
        assert client.get(path).status_code == 200, path
    for headers, status in (({}, 401), (as_bearer("user"), 403), (as_bearer("prometheus"), 200)):
        for path in ("/metrics", "/version"):
            assert client.get(path, headers=headers).status_code == status
            assert client.head(path, headers=headers).status_code == status


def test_a_rate_is_kept(start: Callable[..., TestClient], keys_file: Path, photo: bytes) -> None:
    client = start(api_keys_file=keys_file)
    answers = [client.post("/classify", content=photo, headers=as_bearer("slow")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    problem(answers[2], 429, "rate-limited")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 1000
    assert client.post("/classify", content=photo, headers=as_bearer("user")).status_code == 200


def test_a_new_key_is_let_in_while_serving(start: Callable[..., TestClient], keys_file: Path, photo: bytes) -> None:
    client = start(api_keys_file=keys_file)
    assert client.post("/classify", content=photo, headers=as_bearer("late")).status_code == 401
    keys_file.write_text(entry("late", '"classify"'))
    until(lambda: client.post("/classify", content=photo, headers=as_bearer("late")).status_code == 200)
    assert client.post("/classify", content=photo, headers=as_bearer("user")).status_code == 401


def test_requests_are_counted_and_logged_by_name(
    start: Callable[..., TestClient], keys_file: Path, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    client = start(api_keys_file=keys_file)
    for token, body in (("user", photo), ("user", b"x"), ("operator", photo), ("s3cret", photo)):
        client.post("/classify?top_k=1", content=body, headers=as_bearer(token))
    client.post("/classify", content=photo)
    fields = [record.__dict__["fields"] for record in caplog.records if record.name == ACCESS]
    assert [(line["key"], line["status"]) for line in fields if line["path"] == "/classify"] == [
        ("user", 200),
        ("user", 422),
        ("operator", 403),
        ("invalid", 401),
        ("anonymous", 401),
    ]
    assert counted(client, "resnet_key_requests_total") == {
        '{key="user",status="200"}': 1,
        '{key="user",status="422"}': 1,
        '{key="operator",status="403"}': 1,
        '{key="invalid",status="401"}': 1,
        '{key="anonymous",status="401"}': 1,
    }
    # refused requests are requests to /classify, too
    assert counted(client, "resnet_requests_total")['{model="unknown",problem="unauthorized",status="401"}'] == 2
    assert "s3cret" not in caplog.text


def test_the_document_names_the_keys(start: Callable[..., TestClient], keys_file: Path) -> None:
    document = start(api_keys_file=keys_file).get("/openapi.json").json()
    for path, method in (("/classify", "post"), ("/metrics", "get")):
        operation = document["paths"][path][method]
        assert [list(one) for one in operation["security"]] == [["HTTPBearer"], ["APIKeyHeader"]]
        assert {"401", "403", "429"} <= operation["responses"].keys()
    assert document["components"]["securitySchemes"].keys() == {"HTTPBearer", "APIKeyHeader"}
    assert "security" not in document["paths"]["/models"]["get"]


# Routes of other scopes.


class Order(BaseModel):
    model: str


def guarded(settings: Settings, scope: Scope, wait: Callable[[], Any] | None = None) -> FastAPI:
    """An application with one guarded route, which reads a body."""
    app = FastAPI()
    problems.install(app)
    routes = APIRouter(route_class=Guard(settings, Metrics()).require(scope))

    @routes.post("/change")
    async def change(order: Order) -> dict[str, str]:
        if wait:
            await wait()
        return {"changed": order.model}

    app.include_router(routes)
    return app


ORDER = {"model": "resnet50"}


def test_without_keys_what_changes_something_is_closed() -> None:
    client = TestClient(guarded(Settings(), "admin"))
    for headers in ({}, as_bearer("operator")):
        document = problem(client.post("/change", json=ORDER, headers=headers), 403, "call-closed")
        assert "RESNET_API_KEYS_FILE" in document["remedy"]


@pytest.mark.parametrize("anonymous", [False, True])
def test_with_keys_it_is_open_to_admins(keys_file: Path, anonymous: bool) -> None:
    client = TestClient(guarded(Settings(api_keys_file=keys_file, anonymous_classify=anonymous), "admin"))
    problem(client.post("/change", json=ORDER), 401, "unauthorized")
    problem(client.post("/change", json=ORDER, headers=as_bearer("user")), 403, "forbidden")
    assert client.post("/change", json=ORDER, headers=as_bearer("operator")).json() == {"changed": "resnet50"}


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("nobody", 401), ("user", 403)])
def test_the_body_of_a_refused_request_is_not_read(keys_file: Path, token: str | None, status: int) -> None:
    app = guarded(Settings(api_keys_file=keys_file), "admin")
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"20")]
    if token:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    scope = {"type": "http", "method": "POST", "path": "/change", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status


def test_requests_at_once_are_limited_until_their_answer(keys_file: Path) -> None:
    async def play() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            entered.set()
            await leave.wait()

        transport = httpx.ASGITransport(guarded(Settings(api_keys_file=keys_file), "classify", wait))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def call() -> httpx.Response:
                return await client.post("/change", json=ORDER, headers=as_bearer("single"))

            first = asyncio.create_task(call())
            await entered.wait()
            assert problem(await call(), 429, "too-many-at-once")["concurrency"] == 1
            leave.set()
            assert (await first).status_code == 200
            assert (await call()).status_code == 200

    asyncio.run(play())


# Whatever the headers hold.

TOKEN = b"the-key-of-a-test"
CREDENTIAL = st.one_of(
    st.just(b"Bearer " + TOKEN),
    st.just(TOKEN),
    CHANGES.map(lambda changes: changed(b"Bearer " + TOKEN, changes)),
    CHANGES.map(lambda changes: changed(TOKEN, changes)),
    st.binary(max_size=40),
)
CREDENTIALS = st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key"]), CREDENTIAL), max_size=3)


@pytest.fixture(scope="module")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An application with one guarded route and one key, `TOKEN`."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(f'[user]\nsha256 = "{hashlib.sha256(TOKEN).hexdigest()}"\nscopes = ["classify"]\n')
    return guarded(Settings(api_keys_file=path), "classify")


def keys_in(headers: list[tuple[bytes, bytes]]) -> set[bytes]:
    """The keys in headers, as RFC 6750 reads them; blanks around them do not count."""
    found = set()
    for name, value in headers:
        scheme, _, token = value.partition(b" ")
        if name == b"x-api-key":
            found.add(stripped(value))
        elif scheme.lower() == b"bearer":
            found.add(stripped(token))
    return found


def stripped(value: bytes) -> bytes:
    return value.decode("latin-1").strip().encode("latin-1")


@tried(400)
@given(headers=CREDENTIALS)
@example(headers=[(b"authorization", b"Basic x"), (b"x-api-key", TOKEN)])
@example(headers=[(b"authorization", b"bearer  " + TOKEN + b" "), (b"x-api-key", TOKEN)])
@example(headers=[(b"x-api-key", b"\xff"), (b"x-api-key", TOKEN)])
def test_only_the_key_lets_in(one_key: FastAPI, headers: list[tuple[bytes, bytes]]) -> None:
    sent = [(b"content-type", b"application/json"), *headers]
    status, answered, _ = result_of(answer(one_key, scope_of("POST", "/change", headers=sent), [b'{"model": "x"}']))
    assert status == (200 if keys_in(headers) == {TOKEN} else 401)
    assert (b"www-authenticate" in answered) == (status == 401)
