"""Both clients, over real sockets, against servers that misbehave."""

from __future__ import annotations

import asyncio
import io
import itertools
import math
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import trustme

from service.client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineMissed,
    Failed,
    Refused,
    Unavailable,
    exchange,
)
from service.client.streams import HELD
from tests.service.client.scripted import CLASSIFIED, CLOSE, HANG, Blocking, Received, Reply, problem, serving
from tests.support.processes import free_port

Connect = Callable[..., Blocking]
FOREVER = 30.0  # seconds: no test takes as long
AT_ONCE = 4


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "FIRST_WAIT_S", 0.01)


def test_an_answer(connect: Connect) -> None:
    with serving(CLASSIFIED) as server:
        answer = connect(f"{server.url}/prefix", api_key="secret\n").classify(b"image", top_k=2, labels=["a b", 3])
    assert (answer.model, answer.width, answer.height, answer.best.label) == ("resnet8-cifar", 2, 3, "one")
    assert answer.milliseconds == {"decode": 1.5, "total": 2.0}
    (request,) = server.received
    assert request.path == "/prefix/classify?top_k=2&labels=a+b%2C3"
    assert request.body == b"image"
    assert request.headers["x-api-key"] == "secret"


@pytest.mark.parametrize("refusal", [problem(503, "overloaded", retry_after=0), problem(429, "too-many-at-once")])
def test_later_is_tried_again(connect: Connect, refusal: Reply) -> None:
    with serving(refusal, CLOSE, CLASSIFIED) as server:
        connect(server.url).classify(b"image")
    assert [request.body for request in server.received] == 3 * [b"image"]
    assert len({request.headers["x-request-id"] for request in server.received}) == 1
    left = [int(request.headers["x-request-timeout-ms"]) for request in server.received]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[2]


def test_retry_after_is_waited_for(connect: Connect) -> None:
    with serving(problem(503, "overloaded", retry_after=1), CLASSIFIED) as server:
        connect(server.url).classify(b"image")
    first, second = server.received
    assert second.at - first.at >= 1


def test_the_last_try_tells_why(connect: Connect) -> None:
    with serving(problem(503, "overloaded", retry_after=0)) as server, pytest.raises(Unavailable) as raised:
        connect(server.url, retries=2).classify(b"image")
    assert len(server.received) == 3
    assert raised.value.problem.slug == "overloaded"
    assert raised.value.problem.members == {"retry_after": 0}


def test_no_wait_beyond_the_deadline(connect: Connect) -> None:
    with serving(problem(503, "overloaded", retry_after=1000)) as server, pytest.raises(Unavailable):
        connect(server.url).classify(b"image", deadline=FOREVER)
    assert len(server.received) == 1


REFUSED = [
    (problem(422, "truncated-image", received=7), Refused),
    (problem(401, "unauthorized"), Refused),
    (problem(413, "image-too-large"), Refused),
    (problem(500, "internal-error"), Failed),
    (problem(504, "deadline-missed"), DeadlineMissed),
    (Reply(502, b"<html>"), Failed),
    (Reply(302, b"", {"Location": "https://elsewhere/"}), Failed),
    (Reply(200, b"<html>"), Failed),
    (Reply(200, b'{"images": []}'), Failed),
    (CLASSIFIED._replace(cut=True), ConnectionFailed),
]


@pytest.mark.parametrize(("reply", "error"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_never_sent_again(connect: Connect, reply: Reply, error: type[Exception]) -> None:
    with serving(reply, CLASSIFIED) as server, pytest.raises(error) as raised:
        connect(server.url).classify(b"image")
    assert len(server.received) == 1
    assert type(raised.value) is error


def test_an_answer_that_never_comes(connect: Connect) -> None:
    with serving(HANG) as server, pytest.raises(DeadlineMissed, match=r"no answer within 0\.3 s") as raised:
        connect(server.url).classify(b"image", deadline=0.3)
    (request,) = server.received
    assert 1 <= int(request.headers["x-request-timeout-ms"]) <= 300
    assert raised.value.problem is None
    assert raised.value.request_id == request.headers["x-request-id"]


def test_an_answer_that_trickles(connect: Connect) -> None:
    """No pause is as long as the deadline."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.02):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        break

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(DeadlineMissed):
                connect(f"http://127.0.0.1:{listening.getsockname()[1]}").classify(b"image", deadline=0.5)
        finally:
            over.set()
            thread.join()


def test_nobody_there(connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}", retries=1)
    with pytest.raises(ConnectionFailed) as raised:
        client.classify(b"image")
    assert raised.value.__cause__ is not None
    assert not client.ready()


def test_no_deadline(connect: Connect) -> None:
    with serving(CLASSIFIED) as server:
        connect(server.url, deadline=math.inf).classify(b"image")
    assert "x-request-timeout-ms" not in server.received[0].headers


def test_ready(connect: Connect) -> None:
    replies = Reply(200), Reply(503, b'{"status": "not ready"}'), CLOSE, problem(404, "not-found")
    with serving(*replies) as server:
        client = connect(server.url)
        assert [client.ready() for _ in range(3)] == [True, False, False]
        with pytest.raises(Refused):
            client.ready()
    assert len(server.received) == 4


def test_connections_are_used_again() -> None:
    with serving(CLASSIFIED) as server:
        with Client(server.url) as client:
            for _ in range(3):
                client.classify(b"image")

        async def several() -> None:
            async with AsyncClient(server.url) as client:
                for _ in range(3):
                    await client.classify(b"image")

        asyncio.run(several())
    assert len({request.port for request in server.received}) == 2


def together(reply: Reply) -> Callable[[Received], Reply]:
    """Answers when AT_ONCE requests are there: anyio leaks a socket that connects in the moment of its cancellation."""
    all_there = threading.Barrier(AT_ONCE)

    def answer(request: Received) -> Reply:
        all_there.wait(FOREVER)
        return reply

    return answer


def test_an_embedding_of_every_image(connect: Connect) -> None:
    def embedding(request: Received) -> Reply:
        buffer = io.BytesIO()
        np.save(buffer, np.full((1, 4), int(request.body), np.float32))
        return Reply(200, buffer.getvalue())

    with serving(each=embedding) as server:
        rows = connect(server.url).embed([str(i).encode() for i in range(40)], normalize=True)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[i] * 4 for i in range(40)]
    assert {request.path for request in server.received} == {"/embed?normalize=true&format=npy"}


def test_an_image_that_cannot_be_embedded_ends_the_call(connect: Connect) -> None:
    with serving(each=together(problem(422, "not-an-image"))) as server, pytest.raises(Refused):
        connect(server.url).embed([b"image"] * AT_ONCE, concurrency=AT_ONCE)


def test_nothing_to_embed(connect: Connect) -> None:
    with pytest.raises(ValueError, match="no images"):
        connect("http://127.0.0.1:1").embed([])


def by_body(request: Received) -> Reply:
    return problem(422, "not-an-image") if request.body == b"broken" else CLASSIFIED


def test_broken_images_among_many(connect: Connect) -> None:
    images = [b"good", b"broken", "/there/is/no/such.jpg", b"good"]
    with serving(each=by_body) as server:
        outcomes = connect(server.url).classify_many(images)
        assert [outcome.image for outcome in outcomes] == images
        assert outcomes[0].result() == outcomes[0].answer
        with pytest.raises(Refused, match="not-an-image"):
            outcomes[1].result()
        assert isinstance(outcomes[2].error, FileNotFoundError)
        assert outcomes[3].error is None


def test_what_all_images_would_be_refused_for_is_raised(connect: Connect) -> None:
    with serving(each=together(problem(404, "unknown-model"))) as server, pytest.raises(Refused):
        connect(server.url).classify_many([b"image"] * AT_ONCE, concurrency=AT_ONCE)


@pytest.mark.parametrize("image", [b"image", "a.jpg"])
def test_one_image_in_the_place_of_many(connect: Connect, image: bytes | str) -> None:
    with pytest.raises(TypeError, match="an iterable of images"):
        connect("http://127.0.0.1:1").classify_many(image)


@pytest.mark.parametrize("wrong", [{"deadline": 0}, {"deadline": math.nan}, {"retries": -1}, {"api_key": "a\nb"}])
def test_wrong_settings(connect: Connect, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        connect("http://127.0.0.1:1", **wrong).models()


def slowly(request: Received) -> Reply:
    time.sleep(0.005)
    return CLASSIFIED


def test_an_endless_stream_that_the_caller_leaves() -> None:
    """As many images are taken as may be held, and no more."""
    taken = itertools.count()
    with serving(each=slowly) as server, Client(server.url) as client:
        outcomes = client.classify_many((b"%d" % number for number in taken), concurrency=2)
        assert [next(outcomes).number for _ in range(10)] == list(range(10))
        outcomes.close()
        assert next(taken) <= 10 + HELD * 2
        assert server.most <= 2
        assert {thread.name for thread in threading.enumerate() if thread.name.startswith("resnet-client")} == set()


def test_an_endless_async_stream_that_the_caller_leaves() -> None:
    async def numbered() -> AsyncIterator[bytes]:
        for number in taken:
            yield b"%d" % number

    async def leave(url: str) -> None:
        async with AsyncClient(url) as client:
            outcomes = client.classify_many(numbered(), concurrency=2)
            assert [(await anext(outcomes)).number for _ in range(10)] == list(range(10))
            await outcomes.aclose()
            assert len(asyncio.all_tasks()) == 1

    taken = itertools.count()
    with serving(each=slowly) as server:
        asyncio.run(leave(server.url))
    assert next(taken) <= 10 + HELD * 2
    assert server.most <= 2


def test_leaving_ends_the_wait_for_another_try() -> None:
    with serving(CLASSIFIED, problem(503, "overloaded", retry_after=100)) as server:
        with Client(server.url, deadline=1000) as client:
            outcomes = client.classify_many([b"image"] * 3, concurrency=1)
            next(outcomes)
            outcomes.close()
        assert len(server.received) <= 2


def test_certificates(connect: Connect, tmp_path: Path) -> None:
    """One that is not trusted stays what it is: no second try."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(CLASSIFIED, tls=context) as server:
        assert connect(server.url, verify=tmp_path / "ca.pem").classify(b"image").best
        assert server.connections == 1
        with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server.url).classify(b"image")
        assert server.connections == 2
        assert connect(server.url, verify=False).classify(b"image").best
