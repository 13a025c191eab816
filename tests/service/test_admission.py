"""Permits: what a request holds until its answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from service.admission import Permit, Room
from service.backend import BatchItem, Pending
from service.errors import Overloaded
from service.metrics import Metrics


class CountingRunner:
    """A runner that only counts."""

    def __init__(self, per_second: float = 0.0) -> None:
        self.in_service = 0
        self.per_second = per_second

    def count(self, images: int) -> None:
        self.in_service += images

    def pending(self) -> Pending:
        return asyncio.get_running_loop().create_future()

    def submit(self, item: BatchItem, pending: Pending) -> None:
        raise NotImplementedError


def gauge(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_permit_holds_bytes_and_images_until_it_ends() -> None:
    metrics, runner = Metrics(), CountingRunner()
    room = Room("net", runner, metrics, 4)
    with Permit(metrics) as permit:
        permit.reserve_bytes(1000)
        permit.reserve_images(room, 3)
        assert (runner.in_service, gauge(metrics, "resnet_queue_images", model="net")) == (3, 3)
        assert gauge(metrics, "resnet_body_bytes") == 1000
    assert (runner.in_service, gauge(metrics, "resnet_queue_images", model="net")) == (0, 0)
    assert gauge(metrics, "resnet_body_bytes") == 0


def test_it_gives_everything_back_after_an_error() -> None:
    metrics, runner = Metrics(), CountingRunner()
    with suppress(ConnectionError), Permit(metrics) as permit:
        permit.reserve_bytes(5)
        permit.reserve_images(Room("net", runner, metrics, 4), 4)
        raise ConnectionError
    assert (runner.in_service, gauge(metrics, "resnet_body_bytes")) == (0, 0)


def test_images_beyond_the_room_are_refused_and_not_counted() -> None:
    metrics, runner = Metrics(), CountingRunner(per_second=2.0)
    room = Room("net", runner, metrics, 4)
    with Permit(metrics) as first, Permit(metrics) as second:
        first.reserve_images(room, 3)
        room.check()
        with pytest.raises(Overloaded) as refused:
            second.reserve_images(room, 2)
        assert refused.value.members == {"queued": 3, "max_queue": 4, "retry_after": 2}
        assert runner.in_service == 3
        second.reserve_images(room, 1)
        with pytest.raises(Overloaded):
            room.check()
    assert runner.in_service == 0
