"""A response is sent in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.answer_transport import AnswerTransport
from service.uvicorn_protocol import Protocol
from tests.service.raw_http import everything, serving

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recording:
    """A transport that remembers what is written at a time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def recorded() -> tuple[AnswerTransport, Recording]:
    recording = Recording()
    return AnswerTransport(recording), recording  # type: ignore[arg-type]


def test_the_head_waits_for_the_first_piece_of_the_body() -> None:
    answer, recording = recorded()
    answer.write(HEAD)
    assert recording.written == []
    for piece in (b"first", b"second"):
        answer.write(piece)
    assert recording.written == [HEAD + b"first", b"second"]
    answer.flush()
    answer.close()
    assert recording.written == [HEAD + b"first", b"second"]
    assert recording.closed


@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_head_without_a_body_is_sent_at_the_end(end: str) -> None:
    answer, recording = recorded()
    answer.write(HEAD)
    getattr(answer, end)()
    assert recording.written == [HEAD]


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked_at_once() -> None:
    answer, recording = recorded()
    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(recording.written) == 1
    answer.write(HEAD)
    answer.write(b"body")
    assert recording.written[1:] == [HEAD + b"body"]


@pytest.mark.parametrize(("method", "body"), [(b"GET", b'{"method": "GET"'), (b"HEAD", b"")])
def test_the_server_sends_each_response_at_once(method: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed between head and body would leave half an answer, which no balancer can replace."""
    recordings: list[Recording] = []
    made = Protocol.connection_made

    def connection_made(self: Protocol, transport: asyncio.Transport) -> None:
        recording = Recording()
        recordings.append(recording)

        class Passing:
            def write(self, data: bytes) -> None:
                recording.write(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        made(self, Passing())  # type: ignore[arg-type]

    monkeypatch.setattr(Protocol, "connection_made", connection_made)

    async def ask() -> bytes:
        async with serving() as port:
            request = method + b" / HTTP/1.1\r\nHost: x\r\n"
            return await everything(port, request + b"\r\n" + request + b"Connection: close\r\n\r\n")

    answers = asyncio.run(ask())
    written = recordings[0].written
    assert len(written) == 2
    assert b"".join(written) == answers
    for one in written:
        assert one.startswith(b"HTTP/1.1 200 OK\r\n")
        assert one.partition(b"\r\n\r\n")[2].startswith(body)
