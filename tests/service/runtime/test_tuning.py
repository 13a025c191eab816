"""Tuning, on scripted speeds and scripted clocks, and the cache of its results."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.runtime import tuning
from service.runtime.choices import Precision
from service.runtime.tuning import Cache, Measured, Tuned, Tuning, lone_ms, measure

KEY = {"model": "abc", "processor": "a slow one"}
SIZES = (1, 2, 4, 8, 16)


def candidate(speeds: dict[int, float]) -> Measured:
    return Measured(provider="cpu", precision="fp32", lanes=1, lone_ms=10.0, images_per_second=speeds)


def tuning_of(speeds: dict[int, float]) -> Tuning:
    return Tuning(measured=(candidate(speeds),))


@pytest.mark.parametrize(
    ("speeds", "sizes"),
    [
        ({1: 100.0}, (1,)),
        ({1: 100.0, 2: 102.0}, (1, 2)),  # just enough
        ({1: 100.0, 2: 101.9}, (1,)),
        ({1: 100.0, 2: 90.0}, (1,)),
        ({1: 100.0, 2: 150.0, 4: 200.0, 8: 201.0}, (1, 2, 4)),
        ({1: 100.0, 2: 101.0, 4: 130.0, 8: 131.0}, (1, 4)),  # a size in between that gains nothing is left out
        ({4: 400.0, 1: 100.0, 2: 200.0}, (1, 2, 4)),  # in any order
    ],
)
def test_sizes_are_kept_as_long_as_they_gain(speeds: dict[int, float], sizes: tuple[int, ...]) -> None:
    assert candidate(speeds).batch_sizes == sizes
    assert candidate(speeds).peak == speeds[sizes[-1]]


def test_a_tuning_needs_a_measurement_of_single_images() -> None:
    with pytest.raises(ValidationError):
        candidate({})
    with pytest.raises(ValidationError, match="batch size 1 is missing"):
        candidate({4: 100.0})
    with pytest.raises(ValidationError):
        Tuning(measured=())


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([("fp32", 1, 10.0, 100.0), ("int8", 1, 10.0, 300.0)], ("int8", 1)),
        ([("fp32", 1, 5.0, 100.0), ("int8", 1, 10.0, 103.0)], ("fp32", 1)),  # a tie: soonest alone
        ([("int8", 1, 5.0, 103.0), ("int8", 2, 5.0, 100.0)], ("int8", 2)),  # a tie alone, too: most lanes
        ([("int8", 1, 5.0, 100.0), ("int8", 2, 5.0, 120.0)], ("int8", 2)),
        ([("int8", 2, 5.0, 100.0), ("int8", 1, 5.0, 102.0), ("fp32", 1, 5.1, 103.0)], ("int8", 2)),
    ],
)
def test_the_best_is_fastest_under_load_then_alone_then_with_most_lanes(
    measured: list[tuple[Precision, int, float, float]], best: tuple[str, int]
) -> None:
    tuning = Tuning(
        measured=tuple(
            Measured(provider="cpu", precision=precision, lanes=lanes, lone_ms=lone, images_per_second={1: rate})
            for precision, lanes, lone, rate in measured
        )
    )
    assert (tuning.best.precision, tuning.best.lanes) == best


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Replaces timing by given speeds, or exceptions, of each size; returns a list of the sizes measured since."""

    def write(speeds: dict[int, float | Exception]) -> list[int]:
        measured: list[int] = []

        def throughput(run: Callable[[int], object], size: int, lanes: int) -> float:
            measured.append(size)
            run(size)
            speed = speeds[size]
            if isinstance(speed, Exception):
                raise speed
            return speed

        monkeypatch.setattr(tuning, "throughput", throughput)
        return measured

    return write


def test_measuring_stops_after_two_sizes_without_a_gain(script: Callable[..., list[int]]) -> None:
    measured = script({1: 100.0, 2: 180.0, 4: 181.0, 8: 182.0, 16: 1000.0})
    ran: list[int] = []
    rates = measure(ran.append, lanes=1, sizes=SIZES)
    assert measured == ran == [1, 2, 4, 8]
    assert rates == ({1: 100.0, 2: 180.0, 4: 181.0, 8: 182.0}, True)


def test_a_single_size_without_a_gain_does_not_stop_measuring(script: Callable[..., list[int]]) -> None:
    measured = script({1: 100.0, 2: 101.0, 4: 130.0, 8: 140.0, 16: 150.0})
    measure(lambda size: None, lanes=1, sizes=SIZES)
    assert measured == [1, 2, 4, 8, 16]


def test_a_candidate_that_cannot_win_is_dropped_at_once(script: Callable[..., list[int]]) -> None:
    measured = script({1: 100.0, 2: 180.0, 4: 300.0})
    assert measure(lambda size: None, lanes=1, sizes=(1, 2, 4), to_beat=151.0).images_per_second == {1: 100.0}
    assert measured == [1]
    measured.clear()
    measure(lambda size: None, lanes=1, sizes=(1, 2, 4), to_beat=149.0)
    assert measured == [1, 2, 4]


def test_measuring_stops_at_the_largest(script: Callable[..., list[int]]) -> None:
    measured = script({size: 100.0 * size for size in (1, 2, 4, 6, 8)})
    measure(lambda size: None, lanes=1, sizes=(1, 2, 4, 6))
    assert measured == [1, 2, 4, 6]


def test_a_size_that_does_not_run_ends_measuring_and_the_smaller_ones_stay(
    script: Callable[..., list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    script({1: 100.0, 2: 180.0, 4: MemoryError("no room")})
    rates = measure(lambda size: None, lanes=1, sizes=SIZES)
    assert rates.images_per_second == {1: 100.0, 2: 180.0}
    assert "batches of 4 do not run, smaller ones do: no room" in caplog.text
    assert not rates.whole


def test_a_tuning_that_a_failure_cut_short_is_not_remembered(tmp_path: Path) -> None:
    """Another process may have held the memory at that moment."""
    cut = Tuning(measured=(candidate({1: 100.0}),), whole=False)
    assert tuned(Cache(tmp_path), KEY, lambda: cut) == Tuned(cut, False)
    assert list(tmp_path.iterdir()) == []
    whole = tuning_of({1: 100.0, 2: 150.0})
    assert tuned(Cache(tmp_path), KEY, lambda: whole) == Tuned(whole, False)
    assert tuned(Cache(tmp_path), KEY, lambda: cut) == Tuned(whole, True)


def test_an_engine_that_runs_no_size_raises_its_error(script: Callable[..., list[int]]) -> None:
    script({1: MemoryError("no room")})
    with pytest.raises(MemoryError, match="no room"):
        measure(lambda size: None, lanes=1, sizes=SIZES)


def test_a_lone_image_is_timed_on_a_single_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "throughput", lambda run, size, lanes: {(1, 1): 200.0}[size, lanes])
    assert lone_ms(lambda size: None) == 5.0


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_first_batch_does_not_count_because_it_compiles(clock: Clock) -> None:
    sizes: list[int] = []

    def run(size: int) -> None:
        clock.now += 0.125 if sizes else 5.0
        sizes.append(size)

    assert tuning.throughput(run, 8, lanes=1) == pytest.approx(8 / 0.125)
    assert set(sizes) == {8}
    assert (len(sizes) - 1) * 0.125 >= tuning.SECONDS


def test_slow_batches_are_run_several_times(clock: Clock) -> None:
    sizes: list[int] = []

    def run(size: int) -> None:
        clock.now += 10
        sizes.append(size)

    assert tuning.throughput(run, 2, lanes=1) == pytest.approx(0.2)
    assert len(sizes) == 1 + tuning.BATCHES


def test_as_many_batches_run_at_once_as_there_are_lanes(clock: Clock) -> None:
    names: set[str] = set()
    counting = threading.Lock()

    def tick() -> None:
        clock.now += 1

    together = threading.Barrier(3, action=tick, timeout=60)

    def run(size: int) -> None:
        name = threading.current_thread().name
        if name.startswith("tuning"):
            with counting:
                names.add(name)
            if clock.now < 100 + tuning.BATCHES:
                together.wait()

    assert tuning.throughput(run, 4, lanes=3) == pytest.approx(3 * 4)  # three batches of four each second
    assert len(names) == 3


def test_a_failure_on_any_lane_is_raised(clock: Clock) -> None:
    def run(size: int) -> None:
        clock.now += 1
        if threading.current_thread().name == "tuning-1":
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        tuning.throughput(run, 1, lanes=2)


def tuned(cache: Cache, key: Mapping[str, str], measure: Callable[[], Tuning]) -> Tuned:
    """What is remembered, else what is measured now, which then is."""
    if found := cache.find(key):
        return Tuned(found, True)
    cache.keep(key, found := measure())
    return Tuned(found, False)


class Measuring:
    """Stands in for measuring: counts its calls, and every result differs from the one before."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Tuning:
        self.times += 1
        return tuning_of({1: 100.5, 2: 150.0 + self.times})


# A file that an earlier version of the service wrote for KEY, and its name.
FILE = """{"measured":[{"provider":"cpu","compute":"int8","lanes":2,"lone_ms":12.5,\
"images_per_second":{"1":100.5,"2":151.0}}],"refused":{"cuda":"no GPU"}}"""
FILE_NAME = "tuning-d8726ceaf365c73ab47ee870b1be48dd.json"


def test_the_cache_file_keeps_its_name_and_format(tmp_path: Path) -> None:
    """Replicas of several versions may share a cache. Its file calls the precision `compute`."""
    result = Measured(provider="cpu", precision="int8", lanes=2, lone_ms=12.5, images_per_second={1: 100.5, 2: 151.0})
    expected = Tuning(measured=(result,), refused={"cuda": "no GPU"})
    tuned(Cache(tmp_path / "written"), KEY, lambda: expected)
    (written,) = (tmp_path / "written").iterdir()
    assert (written.name, written.read_text()) == (FILE_NAME, FILE)

    (tmp_path / FILE_NAME).write_text(FILE)
    measuring = Measuring()
    assert tuned(Cache(tmp_path), KEY, measuring) == Tuned(expected, remembered=True)
    assert measuring.times == 0


def test_measurements_are_remembered(tmp_path: Path) -> None:
    measuring = Measuring()
    first = tuned(Cache(tmp_path / "made" / "for it"), KEY, measuring)
    again = tuned(Cache(tmp_path / "made" / "for it"), dict(reversed(KEY.items())), measuring)
    assert (first.remembered, again.remembered) == (False, True)
    assert first.tuning == again.tuning
    assert measuring.times == 1


@pytest.mark.parametrize("other", [{"model": "abd"}, {"threads": "2"}, {"processor": ""}])
def test_measurements_of_another_key_do_not_count(tmp_path: Path, other: dict[str, str]) -> None:
    cache, measuring = Cache(tmp_path), Measuring()
    first = tuned(cache, KEY, measuring)
    second = tuned(cache, KEY | other, measuring)
    assert not second.remembered
    assert measuring.times == 2
    assert tuned(cache, KEY, measuring) == first._replace(remembered=True)
    assert tuned(cache, KEY | other, measuring) == second._replace(remembered=True)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b'{"measured": []}',
        b'{"images_per_second": {"1": 2}}',  # from an early version
    ],
)
def test_a_damaged_file_is_measured_again(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cache, measuring = Cache(tmp_path), Measuring()
    tuned(cache, KEY, measuring)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert not tuned(cache, KEY, measuring).remembered
    assert f"measuring again: the cache file {path} cannot be used: " in caplog.text
    assert tuned(cache, KEY, measuring).remembered  # the file was replaced


@pytest.mark.parametrize("speeds", [{}, {"one": 2}, {"1": "fast"}, {"4": 100.0}, {"0": 100.0}, {"-1": 5.0, "1": 9.0}])
def test_impossible_speeds_are_measured_again(tmp_path: Path, speeds: dict[str, object]) -> None:
    cache, measuring = Cache(tmp_path), Measuring()
    tuned(cache, KEY, measuring)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    content["measured"][0]["images_per_second"] = speeds
    path.write_text(json.dumps(content))
    assert not tuned(cache, KEY, measuring).remembered


def test_without_a_writable_folder_every_start_measures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache, measuring = Cache(tmp_path / "file" / "folder"), Measuring()
    for times in (1, 2):
        assert not tuned(cache, KEY, measuring).remembered
        assert measuring.times == times
    assert "cannot be written (Not a directory): every start will measure again until cache_dir is a" in caplog.text


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuning.Path, "replace", full)
    found = tuned(Cache(tmp_path), KEY, Measuring())
    assert found.tuning.best.batch_sizes == (1, 2)
    assert list(tmp_path.iterdir()) == []
    assert "(No space left on device)" in caplog.text


def test_replicas_that_start_together_read_whole_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    expected = Measuring()()

    def replica() -> None:
        tunings.extend(tuned(Cache(tmp_path), KEY, lambda: expected).tuning for _ in range(20))

    tunings: list[Tuning] = []
    threads = [threading.Thread(target=replica) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tunings == [expected] * 80
    assert caplog.text == ""
    assert len(list(tmp_path.iterdir())) == 1
