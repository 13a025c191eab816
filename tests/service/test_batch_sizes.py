"""How many items a batch takes."""

from __future__ import annotations

import itertools
import random

import pytest

from service.batch_sizes import PaddedSizes


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [(1, [1]), (2, [2]), (3, [3]), (8, [8]), (9, [8, 1]), (20, [20]), (32, [32]), (33, [32, 1]), (45, [32, 8, 5])],
)
def test_padded_sizes_split_the_queue_for_the_least_total_time(waiting: int, taken: list[int]) -> None:
    sizes = PaddedSizes({1: 1.0, 8: 1.5, 32: 4.0, 64: 8.0})
    assert sizes.largest == 64
    batches = []
    while waiting:
        batches.append(sizes.take(waiting, lanes=2))
        waiting -= batches[-1]
    assert batches == taken


def test_where_every_size_takes_the_same_time_padded_sizes_take_all_items() -> None:
    sizes = PaddedSizes({1: 1.0, 8: 1.0, 32: 1.0, 64: 1.0})
    taken = {1: 1, 2: 2, 9: 9, 33: 33, 45: 45, 64: 64, 65: 64, 1000: 64}
    assert {waiting: sizes.take(waiting, lanes=1) for waiting in taken} == taken


def test_no_split_is_faster_than_that_of_padded_sizes() -> None:
    """Compares all splits, for many curves of times."""
    rng = random.Random(0)
    for _ in range(50):
        times = sorted(rng.uniform(0.5, 1.5) * size ** rng.uniform(0, 1.2) for size in (1, 2, 5, 8))
        seconds = dict(zip((1, 2, 5, 8), times, strict=True))
        sizes = PaddedSizes(seconds)
        for waiting in range(1, 9):
            took, left = 0.0, waiting
            while left:
                taken = sizes.take(left, lanes=1)
                took += seconds[min(size for size in seconds if size >= taken)]
                left -= taken
            best = min(
                sum(seconds[size] for size in split)
                for count in range(1, 9)
                for split in itertools.combinations_with_replacement(seconds, count)
                if sum(split) >= waiting
            )
            assert took <= best + 1e-5
