"""Permits: what a request holds until its answer, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from service.admission import Memory, Permit, Room
from service.backend import BatchItem, Pending
from service.deadline import Deadline
from service.decoders import Decoders
from service.errors import DeadlineMissed, MemoryExhausted, Overloaded, RequestNeedsTooMuchMemory
from service.metrics import Metrics

LONG = Deadline.after(10**6)  # made when tests are collected, which may be an hour before they run


class CountingRunner:
    """A runner that only has numbers."""

    def __init__(self, unanswered: int = 0, per_second: float = 0.0) -> None:
        self.unanswered = unanswered
        self.per_second = per_second

    def pending(self) -> Pending:
        return asyncio.get_running_loop().create_future()

    def submit(self, item: BatchItem, pending: Pending) -> None:
        raise NotImplementedError


class Stand(NamedTuple):
    room: Room
    runner: CountingRunner
    decoders: Decoders
    metrics: Metrics


@pytest.fixture
def stand() -> Iterator[Stand]:
    """A room with a target of half a second."""
    metrics, runner, decoders = Metrics(), CountingRunner(), Decoders(1, 1, target=1.0)
    yield Stand(Room("net", runner, decoders, metrics, 0.5), runner, decoders, metrics)
    decoders.shutdown()


def gauge(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_room_is_vacated_once_its_last_request_has_ended(stand: Stand) -> None:
    memory = Memory(100, stand.metrics)

    async def scenario() -> None:
        with Permit(memory) as first:
            first.enter(stand.room)
            second = Permit(memory)
            second.enter(stand.room)
            assert not stand.room.closed
            vacated = asyncio.create_task(stand.room.vacated())
            await asyncio.sleep(0)
            assert stand.room.closed
            second.__exit__(None, None, None)
            await asyncio.sleep(0)
            assert not vacated.done()
        await asyncio.wait_for(vacated, 60)

    asyncio.run(scenario())


def test_a_permit_holds_bytes_and_images_until_it_ends(stand: Stand) -> None:
    memory = Memory(10_000, stand.metrics)
    with Permit(memory) as permit:
        permit.reserve_bytes(600)
        permit.reserve_bytes(400)
        permit.reserve_images(stand.room, 3)
        assert gauge(stand.metrics, "resnet_images_in_service", model="net") == 3
        assert gauge(stand.metrics, "resnet_request_bytes") == memory.held == 1000
    assert gauge(stand.metrics, "resnet_images_in_service", model="net") == 0
    assert gauge(stand.metrics, "resnet_request_bytes") == memory.held == 0


def test_it_gives_everything_back_after_an_error(stand: Stand) -> None:
    memory = Memory(100, stand.metrics)
    with suppress(ConnectionError), Permit(memory) as permit:
        permit.reserve_bytes(5)
        permit.reserve_images(stand.room, 4)
        raise ConnectionError
    assert memory.held == 0
    assert gauge(stand.metrics, "resnet_images_in_service", model="net") == 0


def test_a_request_may_hold_as_much_as_stays_free(stand: Stand) -> None:
    memory = Memory(100, stand.metrics)
    with Permit(memory) as first, Permit(memory) as second:
        first.reserve_bytes(50)
        second.reserve_bytes(25)
        with pytest.raises(MemoryExhausted) as refused:
            second.reserve_bytes(1)
        assert refused.value.members == {"bytes": 26, "held": 50, "memory_bytes": 100, "retry_after": 1}
        assert memory.held == 75


def test_what_no_request_may_hold_is_not_worth_another_try(stand: Stand) -> None:
    memory = Memory(100, stand.metrics)
    with Permit(memory) as permit, Permit(memory) as other:
        other.reserve_bytes(40)
        permit.reserve_bytes(20)
        with pytest.raises(RequestNeedsTooMuchMemory) as refused:
            permit.reserve_bytes(31)
        assert refused.value.members == {"bytes": 51, "max_bytes": 50}
        assert memory.held == 60


def test_requests_that_grow_side_by_side_leave_room_for_small_ones(stand: Stand) -> None:
    memory = Memory(1_000_000, stand.metrics)
    growing = [Permit(memory) for _ in range(100)]
    refused: set[Permit] = set()
    while len(refused) < len(growing):
        for permit in growing:
            try:
                permit.reserve_bytes(1000)
            except MemoryExhausted:
                refused.add(permit)
    with Permit(memory) as small:
        small.reserve_bytes(5000)


def test_an_announced_body_is_refused_at_once_and_holds_nothing(stand: Stand) -> None:
    memory = Memory(100, stand.metrics)
    permit = Permit(memory)
    permit.expect_bytes(50)
    assert memory.held == 0
    with pytest.raises(RequestNeedsTooMuchMemory):
        permit.expect_bytes(51)
    with Permit(memory) as other:
        other.reserve_bytes(1)
        with pytest.raises(MemoryExhausted):
            permit.expect_bytes(50)


@pytest.mark.parametrize("unanswered", [0, 1, 50])
def test_images_are_admitted_up_to_the_target_wait(stand: Stand, unanswered: int) -> None:
    stand.runner.per_second, stand.runner.unanswered = 100.0, unanswered
    stand.room.check(LONG)


def test_beyond_the_target_wait_they_are_refused_and_told_when_to_come_back(stand: Stand) -> None:
    stand.runner.per_second, stand.runner.unanswered = 100.0, 320
    with pytest.raises(Overloaded) as refused:
        stand.room.check(LONG)
    assert refused.value.members == {"wait_ms": 3200, "target_wait_ms": 500, "retry_after": 3}
    stand.runner.unanswered -= 3 * 100  # after that time, at that rate
    stand.room.check(LONG)


def test_without_a_measured_rate_everything_is_admitted(stand: Stand) -> None:
    stand.runner.unanswered = 10_000
    stand.room.check(LONG)


def test_images_that_are_being_decoded_are_ahead_in_the_engines_queue(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.runner.per_second = 100.0
    monkeypatch.setattr(Decoders, "on_their_way", 60.0)
    assert stand.room.wait == 0.6


def test_a_deadline_that_the_queue_alone_exceeds_is_refused_on_arrival(stand: Stand) -> None:
    stand.runner.per_second, stand.runner.unanswered = 100.0, 40
    stand.room.check(Deadline.after(60))
    with pytest.raises(DeadlineMissed, match="The limit is 350 ms for the request: the queue alone takes 400 ms"):
        stand.room.check(Deadline.after(0.35))
