from __future__ import annotations

import threading

from service.runtime.turns import Turns

WAIT_S = 30


def run(*functions: object) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def test_many_go_together() -> None:
    turns, met = Turns(), threading.Barrier(4)

    def work() -> None:
        with turns.together():
            met.wait(WAIT_S)

    for thread in run(*[work] * 4):
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_one_is_alone() -> None:
    """Each adds and takes away; who saw more than one of them was not alone."""
    turns, inside, most = Turns(), [0], [0]

    def work() -> None:
        with turns.together():
            for _ in range(50):
                with turns.alone():
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1

    for thread in run(*[work] * 8):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert most == [1]


def test_who_wants_to_be_alone_waits_for_the_others_and_keeps_new_ones_out() -> None:
    turns = Turns()
    finish, alone, late = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with turns.together():
            alone.wait(WAIT_S)
            finish.wait(WAIT_S)
            order.append("first")

    def second() -> None:
        with turns.together():
            alone.set()
            with turns.alone():
                order.append("second, alone")
                assert not late.wait(0.05)

    def third() -> None:
        with turns.together():
            late.set()
            order.append("third")

    threads = run(first, second)
    assert alone.wait(WAIT_S)
    while not turns._waiting:
        threading.Event().wait(0.001)
    threads += run(third)
    finish.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["first", "second, alone", "third"]


def test_a_failure_gives_the_turn_back() -> None:
    turns = Turns()
    for _ in range(2):
        try:
            with turns.together(), turns.alone():
                raise RuntimeError
        except RuntimeError:
            pass
    with turns.together(), turns.alone():
        pass
