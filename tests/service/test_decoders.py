"""The threads that decode: large images keep nobody waiting and stay within their memory."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator

import pytest

from service.decoders import EXPECTED_DRAWING_RATE, Decoders, Outcome
from service.errors import Overloaded
from service.upload_faults import TooMuchMemory
from tests.support.waiting import until

TIMEOUT_S = 60


class Held:
    """Work that lasts until it is released, and says when it has begun."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.gate = threading.Event()
        self.done = threading.Event()

    def __call__(self) -> Outcome:
        self.began.set()
        assert self.gate.wait(TIMEOUT_S)
        self.done.set()
        return Outcome.DECODED


def nothing() -> Outcome:
    return Outcome.NOTHING


def noting(work: Callable[[], object], outcome: Outcome = Outcome.DECODED) -> Callable[[], Outcome]:
    """Work that does this."""

    def run() -> Outcome:
        work()
        return outcome

    return run


@pytest.fixture
def held() -> Iterator[Callable[[], Held]]:
    made: list[Held] = []

    def make() -> Held:
        made.append(Held())
        return made[-1]

    yield make
    for work in made:
        work.gate.set()


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(2, large_bytes=100, target=1.0)
    yield made
    made.shutdown()


def test_ordinary_images_do_not_wait_behind_large_ones(decoders: Decoders, held: Callable[[], Held]) -> None:
    large = [held() for _ in range(5)]
    for work in large:
        decoders.submit_large(work, 10, "one request")
    assert large[0].began.wait(TIMEOUT_S)
    ordinary = held()
    ordinary.gate.set()
    decoders.submit(ordinary)
    assert ordinary.done.wait(TIMEOUT_S)
    assert not large[1].began.is_set()


def test_large_images_are_decoded_within_the_memory_for_them(held: Callable[[], Held]) -> None:
    decoders = Decoders(8, large_bytes=100, target=1.0)  # four threads for large images
    first, second, third = held(), held(), held()
    decoders.submit_large(first, 60, "a")
    decoders.submit_large(second, 40, "b")
    assert first.began.wait(TIMEOUT_S)
    assert second.began.wait(TIMEOUT_S)
    decoders.submit_large(third, 50, "c")
    second.gate.set()
    assert second.done.wait(TIMEOUT_S)
    assert not third.began.is_set()  # 60 + 50 bytes would be too many
    first.gate.set()
    assert third.began.wait(TIMEOUT_S)
    third.gate.set()
    decoders.shutdown()


def test_an_image_that_would_never_fit_is_refused(decoders: Decoders) -> None:
    with pytest.raises(TooMuchMemory, match="would take 101 bytes; at most 100"):
        decoders.submit_large(nothing, 101, "a")


def test_requests_take_turns(held: Callable[[], Held]) -> None:
    decoders = Decoders(2, large_bytes=100, target=1000.0)  # one thread for large images
    order: list[str] = []

    first = held()
    decoders.submit_large(first, 10, "a")
    assert first.began.wait(TIMEOUT_S)
    for number in (1, 2, 3):
        decoders.submit_large(noting(functools.partial(order.append, f"a{number}")), 10, "a")
    for number in (1, 2):
        decoders.submit_large(noting(functools.partial(order.append, f"b{number}")), 10, "b")
    first.gate.set()
    decoders.shutdown()
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def pictures(drawn: list[str], name: str, count: int, gate: threading.Semaphore) -> Iterator[None]:
    for _ in range(count):
        assert gate.acquire(timeout=TIMEOUT_S)
        drawn.append(name)
        yield


def test_pictures_are_drawn_request_by_request_and_refused_if_they_would_wait_longer_than_the_target() -> None:
    decoders = Decoders(2, large_bytes=100, target=1.0)  # one thread for drawings
    drawn: list[str] = []
    gate = threading.Semaphore(0)
    pixels = int(EXPECTED_DRAWING_RATE)  # a second for each picture, until it is measured
    decoders.submit_drawing(pictures(drawn, "a", 1, gate), 1, pixels)
    decoders.submit_drawing(pictures(drawn, "b", 3, gate), 3, 1)
    with pytest.raises(Overloaded) as refused:
        decoders.submit_drawing(pictures(drawn, "c", 1, gate), 1, 1)
    assert refused.value.members["retry_after"] == 1
    gate.release()
    until(lambda: decoders._undrawn == 3)  # measured, and fast
    decoders.submit_drawing(pictures(drawn, "d", 2, gate), 2, 1)
    gate.release(5)
    decoders.shutdown()
    assert drawn == ["a", "b", "b", "b", "d", "d"]
    assert (decoders._undrawn, decoders._drawings) == (0, 0)


def test_pictures_that_are_given_up_are_not_waited_for() -> None:
    decoders = Decoders(2, large_bytes=100, target=1.0)
    decoders.submit_drawing(iter([None]), 100, 10**9)
    until(lambda: (decoders._undrawn, decoders._drawings) == (0, 0))
    decoders.shutdown()


def test_a_free_thread_draws_at_once(held: Callable[[], Held]) -> None:
    decoders = Decoders(4, large_bytes=100, target=1.0)  # two threads for drawings
    gate = threading.Semaphore(0)
    drawn: list[str] = []
    decoders.submit_drawing(pictures(drawn, "a", 1, gate), 1, 10**9)
    decoders.submit_drawing(pictures(drawn, "b", 1, gate), 1, 10**9)
    with pytest.raises(Overloaded):
        decoders.submit_drawing(pictures(drawn, "c", 1, gate), 1, 1)
    gate.release(2)
    decoders.shutdown()


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.HANDED_ON])
def test_what_is_not_decoded_promises_no_rate(decoders: Decoders, outcome: Outcome) -> None:
    decoders.submit(noting(lambda: None, outcome))
    until(lambda: not decoders.unfinished)
    assert decoders._rate.per_second == 0


def test_one_slow_image_does_not_spoil_the_rate_for_ever(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 200.0, 200.1])
    monkeypatch.setattr("service.decoders.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(Decoders, "waiting", 1)
    decoders._run(noting(lambda: None))
    assert decoders.wait == pytest.approx(100)
    monkeypatch.setattr(Decoders, "waiting", 0)
    decoders._run(noting(lambda: None))
    monkeypatch.setattr(Decoders, "waiting", 1)
    assert decoders.wait == pytest.approx(0.1)


def test_one_request_with_many_large_images_does_not_shut_out_another(held: Callable[[], Held]) -> None:
    decoders = Decoders(2, large_bytes=10**9, target=1.0)  # at 200 MB a second until it is measured
    blocking = held()
    for _ in range(32):
        decoders.submit_large(blocking, 10**8, "form")
    decoders.submit_large(blocking, 10**8, "photo")  # after at most one of the form's
    blocking.gate.set()
    decoders.shutdown()


def test_large_images_of_many_requests_beyond_the_target_wait_are_a_refusal(held: Callable[[], Held]) -> None:
    decoders = Decoders(2, large_bytes=10**9, target=1.0)
    blocking = held()
    for number in range(2):
        decoders.submit_large(blocking, 10**8, number)
    assert blocking.began.wait(TIMEOUT_S)  # one is decoded, one waits: a second in all
    decoders.submit_large(blocking, 10**8, 0)
    with pytest.raises(Overloaded) as refused:
        decoders.submit_large(blocking, 2 * 10**8, 3)
    assert refused.value.members["retry_after"] == 1
    blocking.gate.set()
    decoders.shutdown()


def test_what_is_not_decoded_says_nothing_about_the_rate(held: Callable[[], Held]) -> None:
    decoders = Decoders(2, large_bytes=10**9, target=1.0)
    left = [threading.Event() for _ in range(100)]
    for event in left:
        decoders.submit_large(noting(event.set, Outcome.NOTHING), 10**8, "left")
    assert left[-1].wait(TIMEOUT_S)
    blocking = [held() for _ in range(3)]
    decoders.submit_large(blocking[0], 10**8, "a")
    assert blocking[0].began.wait(TIMEOUT_S)
    decoders.submit_large(blocking[1], 2 * 10**8, "b")
    with pytest.raises(Overloaded):
        decoders.submit_large(blocking[2], 2 * 10**8, "c")
    for work in blocking:
        work.gate.set()
    decoders.shutdown()


def test_the_wait_is_that_of_the_images_without_a_thread(decoders: Decoders, held: Callable[[], Held]) -> None:
    assert decoders.wait == 0
    first = [held() for _ in range(4)]
    for work in first:
        decoders.submit(work)
    until(lambda: decoders.waiting == 2)
    assert decoders.wait == 0  # no rate yet
    first[0].gate.set()
    first[1].gate.set()
    until(lambda: decoders.waiting == 0)
    for work in (more := [held() for _ in range(3)]):
        decoders.submit(work)
    assert decoders.waiting == 3
    assert decoders.wait > 0
    for work in [*first, *more]:
        work.gate.set()


def test_images_that_are_refused_are_not_on_their_way_to_the_engine(
    decoders: Decoders, held: Callable[[], Held]
) -> None:
    done = threading.Event()
    for outcome in [Outcome.REFUSED, Outcome.HANDED_ON] * 150:
        decoders.submit(noting(lambda: None, outcome))
    decoders.submit(noting(done.set, Outcome.NOTHING))
    assert done.wait(TIMEOUT_S)
    until(lambda: decoders.unfinished == 0)
    for work in (waiting := [held() for _ in range(100)]):
        decoders.submit(work)
    assert decoders.unfinished == 100
    assert decoders.on_their_way < 10
    for work in waiting:
        work.gate.set()
    until(lambda: decoders.unfinished == 0)
    for _ in range(300):
        decoders.submit(noting(lambda: None))
    until(lambda: decoders.unfinished == 0)
    decoders.submit(work := held())
    assert decoders.on_their_way > 0.9
    work.gate.set()
