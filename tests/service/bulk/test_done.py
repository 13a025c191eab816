"""What need not be done again."""

from __future__ import annotations

from service.bulk.done import Done
from tests.service.bulk.test_stream import Number


def test_a_file_is_left_out_as_often_as_it_has_rows() -> None:
    done = Done(["1", "2", "2"])
    sources = map(Number, [2, 1, 3, 2, 2, 1])
    assert [source.name for source in done.leave_out(sources)] == ["3", "2", "1"]
    assert done.rows == 3


def test_nothing_is_done_at_first() -> None:
    done = Done(())
    assert not done.take("a")
    assert [source.name for source in done.leave_out([Number(1)])] == ["1"]


def test_many_files() -> None:
    done = Done(f"photos/{number}.jpg" for number in range(10_000))
    assert all(done.take(f"photos/{number}.jpg") for number in range(10_000))
    assert not any(done.take(f"photos/{number}.jpg") for number in range(10_000))
