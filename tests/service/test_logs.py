"""What the log looks like, through the real handler."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from datetime import UTC, datetime

import pytest

from service import logs, request_ids
from service.logs import MOST, JsonFormatter, LimitedHandler, TextFormatter
from service.tracing import traces
from service.tracing.traces import NO_MARK, Trace


class Log:
    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = LimitedHandler(self.stream)
        self.handler.setFormatter(formatter)
        self.logger = logging.Logger("service.part")
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("service.logs.time.monotonic", lambda: now[0])
    return now


def test_text() -> None:
    log = Log(TextFormatter(""))
    log.logger.info("%d models", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO service\.part: 3 models", log.lines[0])


def test_text_names_the_process_and_the_request() -> None:
    async def request() -> None:
        request_ids.begin("order-66")
        log.logger.warning("it went wrong")
        log.logger.warning("it went wrong for another", extra={"request_id": "a b"})

    log = Log(TextFormatter("worker 1"))
    asyncio.run(request())
    assert log.lines[0].endswith("WARNING worker 1: service.part: [order-66] it went wrong")
    assert log.lines[1].endswith("WARNING worker 1: service.part: [a b] it went wrong for another")


def test_json() -> None:
    async def request() -> None:
        request_ids.begin("order-66")
        log.logger.info("one\nline", extra={"fields": {"status": 200, "path": "/classify"}})
        try:
            raise ValueError("why")
        except ValueError:
            log.logger.exception("it broke")

    log = Log(JsonFormatter("worker 1"))
    asyncio.run(request())
    log.logger.info("outside")
    first, second, third = log.objects
    when = datetime.fromisoformat(str(first.pop("time")))
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert first == {
        "level": "info",
        "logger": "service.part",
        "message": "one\nline",
        "process": "worker 1",
        "request_id": "order-66",
        "status": 200,
        "path": "/classify",
    }
    assert str(second["exception"]).endswith("ValueError: why")
    assert "request_id" not in third


def test_the_trace_of_a_request_that_is_traced() -> None:
    mark = bytes(range(1, 25))
    ids = {"trace_id": mark[:16].hex(), "span_id": mark[16:].hex()}

    async def request(log: Log) -> None:
        request_ids.begin("order-66")
        traces.begin(Trace(mark))
        log.logger.info("inside")

    def record(log: Log) -> None:
        log.logger.error("in a batch", extra={"request_id": "a b", "trace": mark})
        log.logger.error("in a batch of several", extra={"request_id": "a b", "trace": NO_MARK})

    structured, plain = Log(JsonFormatter("")), Log(TextFormatter(""))
    for log in (structured, plain):
        asyncio.run(request(log))
        record(log)
    assert [entry.items() >= ids.items() for entry in structured.objects] == [True, True, False]
    assert "trace_id" not in structured.objects[2]
    said = " ".join(f"{name}={value}" for name, value in ids.items())
    assert plain.lines[0].endswith(f"INFO service.part: [order-66] {said} inside")
    assert plain.lines[1].endswith(f"ERROR service.part: [a b] {said} in a batch")
    assert plain.lines[2].endswith("ERROR service.part: [a b] in a batch of several")


def test_what_repeats_is_counted(clock: list[float]) -> None:
    log = Log(TextFormatter(""))
    for number in range(MOST + 25):
        log.logger.error("fault %d", number)
        log.logger.info("line %d", number)
    assert sum("fault" in line for line in log.lines) == MOST
    assert sum("line" in line for line in log.lines) == MOST + 25
    clock[0] += 11
    log.logger.info("later")
    assert log.lines[-2].endswith("ERROR service.part: 25 more like this within 10 s, the last: fault 34")
    log.logger.error("fault again")
    assert log.lines[-1].endswith("fault again")


def test_one_fault_does_not_hide_another(clock: list[float]) -> None:
    log = Log(TextFormatter(""))
    for _ in range(MOST + 1):
        log.logger.error("a flood")
    log.logger.error("something else")
    assert log.lines[-1].endswith("something else")


def test_nothing_is_passed_over_at_the_end(clock: list[float]) -> None:
    log = Log(TextFormatter(""))
    for _ in range(MOST + 3):
        log.logger.error("a flood")
    log.handler.close()
    assert log.lines[-1].endswith("3 more like this within 10 s, the last: a flood")


def test_access_lines_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    access = logging.getLogger(logs.ACCESS)
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: None)
    try:
        logs.configure("info", "text", access=False)
        assert not access.isEnabledFor(logging.INFO)
    finally:
        access.setLevel(logging.NOTSET)
