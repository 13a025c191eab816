"""How the server starts and shuts down."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service import server as server_module
from service.metrics import Metrics
from service.server import Server
from service.settings import Settings
from tests.support.processes import free_port
from tests.support.waiting import async_until


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that only starts and stops."""
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def make(shutdown_delay: float = 2.0, *, heeds_signals: bool = True) -> Server:
    return Server(Settings(shutdown_delay=shutdown_delay), Metrics(), lambda server: app, heeds_signals=heeds_signals)


def tick(server: Server, monkeypatch: pytest.MonkeyPatch, now: float) -> bool:
    """Whether the serving ends at this time."""
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: now))
    return asyncio.run(server.on_tick(1))


def test_sigterm_turns_readiness_off_and_closes_the_port_later(monkeypatch: pytest.MonkeyPatch) -> None:
    server = make(shutdown_delay=2.0)
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    assert not server.draining
    server.stop(signal.SIGTERM)
    assert server.draining
    assert not tick(server, monkeypatch, 101.9)
    assert tick(server, monkeypatch, 102.0)
    assert not server.force_exit


def test_a_second_signal_closes_the_port_at_once_and_a_third_cuts_requests_off() -> None:
    server = make()
    server.stop(signal.SIGTERM)
    assert not server.should_exit
    server.stop(signal.SIGTERM)
    assert (server.should_exit, server.force_exit) == (True, False)
    server.stop(signal.SIGTERM)
    assert server.force_exit


def test_ctrl_c_closes_the_port_at_once() -> None:
    server = make()
    server.stop(signal.SIGINT)
    assert (server.draining, server.should_exit, server.force_exit) == (True, True, False)


def test_a_failure_closes_the_port_at_once_and_is_kept() -> None:
    server = make()
    error = RuntimeError("the engine broke")
    server.fail(error)
    assert (server.fatal, server.draining, server.should_exit) == (error, True, True)


@pytest.mark.parametrize("heeds", [True, False])
def test_signals_are_heeded_unless_the_parent_decides(heeds: bool) -> None:
    server = make(heeds_signals=heeds)
    server.handle_exit(signal.SIGINT, None)
    assert server.should_exit is heeds


def test_it_says_when_it_accepts_connections_and_when_it_closes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()

        def on_listening() -> None:
            with socket.create_connection(address, timeout=60):
                accepted.append(True)
            server.stop(signal.SIGINT)

        accepted: list[bool] = []
        server = Server(Settings(), Metrics(), lambda server: app, on_listening=on_listening)
        assert not server.closing.begun.is_set()
        asyncio.run(server.serve(sockets=[listening]))
    assert accepted == [True]
    assert server.closing.begun.is_set()


async def served_beside(server: Server, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Serves and stops beside a task that ends with the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(work)
        server.closing.awaited.add(task)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await async_until(lambda: server.started)
        server.stop(signal.SIGINT)
        await serving
    return task


def test_the_application_is_shut_down_after_what_ends_with_the_server() -> None:
    events = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message = await receive()
            events.append(message["type"])
            return message

        await app(scope, received, send)

    server = Server(Settings(), Metrics(), lambda server: noting)

    async def work() -> None:
        await server.closing.begun.wait()
        await asyncio.sleep(0.3)
        events.append("done")

    asyncio.run(served_beside(server, work()))
    assert events == ["lifespan.startup", "done", "lifespan.shutdown"]


def test_what_takes_too_long_to_end_is_cancelled() -> None:
    server = Server(Settings(shutdown_timeout=1), Metrics(), lambda server: app)
    task = asyncio.run(served_beside(server, asyncio.sleep(60)))
    assert task.cancelled()


def test_when_the_port_closes_connections_without_a_whole_request_close_too() -> None:
    async def ask() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            metrics = Metrics()
            server = Server(Settings(client_timeout=600, shutdown_timeout=600), metrics, lambda server: app)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            await async_until(lambda: server.started)
            clients = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
            clients[0][1].write(b"GET / HTTP/1.1\r\nHost: x")
            await async_until(lambda: metrics.registry.get_sample_value("resnet_connections") == 2)
            server.stop(signal.SIGINT)
            for reader, writer in clients:
                assert await asyncio.wait_for(reader.read(), 60) == b""  # sooner than any deadline
                writer.close()
            await serving

    asyncio.run(ask())


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers each request with two bytes."""
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_clients_that_keep_their_connection_are_sent_away_before_the_port_closes() -> None:
    async def ask() -> None:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = Server(Settings(shutdown_delay=60), Metrics(), lambda server: answering)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            await async_until(lambda: server.started)
            connections = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
            for reader, writer in connections:  # both stay open after an answer
                writer.write(request)
                answer = await asyncio.wait_for(reader.readuntil(b"ok"), 60)
                assert b"connection:" not in answer.lower()
            server.stop(signal.SIGTERM)
            for (reader, writer), ticks in zip(connections, (0, 10), strict=True):
                await server.on_tick(ticks)  # the second: uvicorn makes the headers of all answers again
                writer.write(request)
                answer = await asyncio.wait_for(reader.read(), 60)  # to the end of the connection
                assert answer.lower().count(b"connection: close\r\n") == 1
                assert answer.endswith(b"\r\n\r\nok")
                writer.close()
            server.stop(signal.SIGTERM)
            await serving

    asyncio.run(ask())


HANGING = """
import asyncio, time
from service import server
from service.metrics import Metrics
from service.settings import Settings

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    print("hangs", flush=True)
    {hang}

server.GRACE_S = 0.2
settings = Settings(port={port}, shutdown_delay=0, shutdown_timeout=1)
server.Server(settings, Metrics(), lambda server: app, on_listening=lambda: print("listens", flush=True)).run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hang", ["time.sleep(600)", "await asyncio.to_thread(time.sleep, 600)"])
def test_the_process_ends_even_if_its_loop_or_a_thread_hangs(hang: str, number: signal.Signals) -> None:
    port = free_port()
    program = HANGING.format(hang=hang, port=port)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listens\n"
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert process.stdout.readline() == "hangs\n"
                process.send_signal(number)
                _, log = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "did not finish within 1.2 s" in log
