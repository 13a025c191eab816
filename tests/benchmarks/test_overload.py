"""The overload's clients, against a small real server, and its figures, from invented answers."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import overload
from benchmarks.overload import FIGURES, Observed, figures, table
from service.bench.open_loop import Answer
from tests.benchmarks.conftest import Server

ADMITTED = (
    b"HTTP/1.1 200 OK\r\nserver-timing: decode;dur=1.00, queue;dur=7.50, inference;dur=2.00, "
    b'batch;desc="1", total;dur=10.50\r\ncontent-length: 0\r\n\r\n'
)
REFUSED = b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"
TIMING = {"server-timing": "decode;dur=1.00, queue;dur=7.50, inference;dur=2.00"}


def answer(due: float, latency: float, status: int = 200) -> Answer:
    return Answer(due, latency, status, TIMING if status == 200 else {"retry-after": "2"} if status == 503 else {})


def overloaded(server: Server, requests: int) -> Observed:
    """This many requests, at the same time."""

    async def run() -> Observed:
        async with server.running() as root:
            return await overload.overload(f"{root}/classify", b"jpeg", [0.0] * requests)

    return asyncio.run(run())


def test_every_tenth_refused_request_comes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "LONE", 2)
    refused = 0

    async def refuses_thirty(number: int) -> bytes:
        nonlocal refused
        if number < overload.LONE or refused == 30:
            return ADMITTED
        refused += 1
        return REFUSED

    found = overloaded(Server(refuses_thirty), 50)
    assert len(found.lone) == 2
    assert found.sent == len(found.answers) == 50
    lost = refused - sum(each.status == 503 for each in [*found.answers, *found.returned, *found.afterwards])
    assert lost == 0
    assert len(found.returned) == sum(each.status == 503 for each in found.answers) // overload.RETURNING


def test_requests_follow_until_one_is_answered_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "LONE", 1)

    async def slow_alone_then_refusing(number: int) -> bytes:
        if number == 0:
            await asyncio.sleep(0.3)  # the usual time: later answers are faster
        return REFUSED if 1 <= number <= 3 else ADMITTED

    found = overloaded(Server(slow_alone_then_refusing), 0)
    assert [each.status for each in found.afterwards][:4] == [503, 503, 503, 200]
    assert found.afterwards[-1].latency <= found.lone[0].latency


def test_an_overload_needs_answers_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "LONE", 1)

    async def refuses(number: int) -> bytes:
        return REFUSED

    with pytest.raises(RuntimeError, match=r"sent alone got \[503\]"):
        overloaded(Server(refuses), 1)


def test_the_figures_of_an_overload() -> None:
    observed = Observed(
        lone=[answer(0, 0.01), answer(1, 0.03)],
        ended=20,
        sent=5,
        answers=[answer(10, 1), answer(19, 2.5), answer(12, 0.001, 503), answer(13, 0.003, 503)],
        returned=[answer(14, 0.002, 503), answer(21, 0.5)],
        afterwards=[answer(20, 1), answer(21, 0.001, 503), answer(22, 0.02)],
    )
    found = figures(observed, capacity=2.0, seconds=1.0)
    assert set(found) == set(FIGURES)
    assert found == pytest.approx(
        {
            "capacity, requests/s": 2,
            "offered ÷ capacity": 2.5,
            "admitted, requests": 2,
            "wait in the queue, p50 ms": 7.5,
            "wait in the queue, p99 ms": 7.5,
            "wait in the queue, longest ms": 7.5,
            "admitted, p50 ms": 1000,
            "admitted, p99 ms": 2500,
            "admitted, longest ms": 2500,
            "refused, % of all": 40,
            "refusal, p50 ms": 1,
            "refusal, p99 ms": 3,
            "Retry-After, longest s": 2,
            "came back during the load": 1,
            "of them admitted, %": 0,
            "came back after the load": 1,
            "of those admitted, %": 100,
            "neither answered nor refused": 1,
            "queue empty after s": 1.5,
            "answer as usual after s": 2.02,
            "alone, p50 ms": 10,
            "alone, longest ms": 30,
        }
    )


def test_what_was_not_measured_is_left_out() -> None:
    nothing = Observed([answer(0, 0.01)], ended=1, sent=1, answers=[answer(0, 0.1)], returned=[], afterwards=[])
    found = figures(nothing, capacity=1.0, seconds=1.0)
    assert not found.keys() & {
        "refusal, p50 ms",
        "of them admitted, %",
        "of those admitted, %",
        "answer as usual after s",
    }
    text = table({1: [found, found], 2: [found | {"refusal, p50 ms": 4.0}, found]})
    assert "| refusal, p50 ms | – | 4.0 (4.0–4.0) |" in text
    assert "| refused, % of all | 0.0 (0.0–0.0) | 0.0 (0.0–0.0) |" in text
