"""What computes a model fastest here: measured once for a model and a machine, then remembered.

A candidate is an execution provider, a precision and a number of lanes. Each is timed lone, and loaded in larger and
larger batches. A larger batch makes everybody wait longer, so it has to earn its place: sizes go on for as long as the
engine gets faster by them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

log = logging.getLogger(__name__)

# A size stays if it brings this much over the next smaller one. (It brings more to the service, which hands over fewer
# batches.)
GAIN = 1.02

# Candidates that differ by less are equal: it is within the noise of a busy machine.
EQUAL = 1.04

MISSES = 2  # sizes in a row without a gain, after which no larger one is tried

# Larger batches are not tried where even with this gain over single images a candidate would lose.
PROMISE = 1.5

SECONDS = 0.15  # of measuring a size, at least
BATCHES = 3  # of each caller, at least

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measured(BaseModel):
    """A candidate, and how fast it was.

    Attributes:
        lone_ms: of a single image with nothing beside it, in milliseconds.
        images_per_second: with all lanes busy, by batch size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str
    compute: str
    lanes: PositiveInt
    lone_ms: Positive
    images_per_second: dict[PositiveInt, Positive]

    @field_validator("images_per_second")
    @classmethod
    def _has_single_images(cls, found: dict[int, float]) -> dict[int, float]:
        if 1 not in found:
            raise ValueError("batches of 1 are missing")
        return found

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those that gain over all smaller ones, ascending."""
        kept: list[int] = []
        for size in sorted(self.images_per_second):
            if not kept or self.images_per_second[size] >= GAIN * self.images_per_second[kept[-1]]:
                kept.append(size)
        return tuple(kept)

    @property
    def peak(self) -> float:
        """Images/s in the largest of these."""
        return self.images_per_second[self.batch_sizes[-1]]


class Tuning(BaseModel):
    """All candidates that were measured.

    Attributes:
        refused: why others were not, by provider, or provider and precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measured: tuple[Measured, ...] = Field(min_length=1)
    refused: dict[str, str] = {}
    # False where a size failed: for lack of memory, say, which another process may have held just then.
    whole: bool = Field(default=True, exclude=True)

    @property
    def best(self) -> Measured:
        """The fastest under load; of equals the one that answers a lone request soonest, then with the most lanes.

        A batch on one core loses nothing to the decoding and the HTTP beside it, which is not measured here.
        """
        peak = max(candidate.peak for candidate in self.measured)
        equals = [candidate for candidate in self.measured if EQUAL * candidate.peak >= peak]
        lone = min(candidate.lone_ms for candidate in equals)
        equals = [candidate for candidate in equals if candidate.lone_ms <= EQUAL * lone]
        return max(equals, key=lambda candidate: (candidate.lanes, candidate.peak))


class Tuned(NamedTuple):
    tuning: Tuning
    remembered: bool  # and not measured just now


def powers_of_two(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `largest`, and `largest` itself: few shapes to warm up, and any number is made of them."""
    sizes = [1]
    while 2 * sizes[-1] <= largest:
        sizes.append(2 * sizes[-1])
    return (*sizes, largest) if sizes[-1] != largest else tuple(sizes)


class Rates(NamedTuple):
    """Images/s by batch size, and whether no size failed."""

    images_per_second: dict[int, float]
    whole: bool


def measure(run: Callable[[int], object], *, callers: int, sizes: Sequence[int], to_beat: float = 0.0) -> Rates:
    """Times batches of ascending sizes until they gain nothing more, or cannot win.

    Args:
        run: runs one batch of the size it is given; called from several threads at once.
        callers: how many batches run at once when the engine is busy.
        sizes: ascending from 1.
        to_beat: images/s of the best candidate so far.
    """
    found: dict[int, float] = {}
    best, missed = 0.0, 0
    for size in sizes:
        try:
            found[size] = _images_per_second(run, size, callers)
        except Exception as error:
            if not found:
                raise
            log.warning("batches of %d do not run, smaller ones do: %s", size, error)  # out of memory, say
            return Rates(found, False)
        missed = 0 if found[size] >= GAIN * best else missed + 1
        best = max(best, found[size])
        if missed == MISSES or PROMISE * best < to_beat:
            break
    return Rates(found, True)


def lone_ms(run: Callable[[int], object]) -> float:
    """Milliseconds of a single image with nothing beside it."""
    return 1000 / _images_per_second(run, 1, 1)


def _images_per_second(run: Callable[[int], object], size: int, callers: int) -> float:
    run(size)  # compiles for this shape
    fastest: list[float] = []  # batch of each caller: what else the machine does can only make them slower
    failures: list[Exception] = []
    end = time.perf_counter() + SECONDS

    def call() -> None:
        seconds: list[float] = []
        try:
            while len(seconds) < BATCHES or time.perf_counter() < end:
                started = time.perf_counter()
                run(size)
                seconds.append(time.perf_counter() - started)
        except Exception as error:  # out of memory, say: raised below, on the thread of whoever measures
            failures.append(error.with_traceback(None))  # which would keep the engine alive
        else:
            fastest.append(min(seconds))

    threads = [threading.Thread(target=call, name=f"tuning-{i}") for i in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(size / seconds for seconds in fastest)


class Cache:
    """Tunings that outlive the process, one small file each; a folder that cannot be used is done without.

    Args:
        folder: made when there is something to remember.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tuned(self, key: Mapping[str, str], measure: Callable[[], Tuning]) -> Tuned:
        """What is remembered for this key, or else measured now and, if it is whole, remembered.

        Args:
            key: everything that the result depends on: the model, the machine, the software.
        """
        path = self._path(key)
        try:
            return Tuned(Tuning.model_validate_json(path.read_bytes()), True)
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            log.warning("%s is not used, and measured again: %s", path, error)
        return self.renewed(key, measure)

    def renewed(self, key: Mapping[str, str], measure: Callable[[], Tuning]) -> Tuned:
        """What is measured now, and remembered if it is whole."""
        path = self._path(key)
        tuning = measure()
        if not tuning.whole:
            return Tuned(tuning, False)
        try:
            self._write(path, tuning)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): what is fastest is measured at every start until cache_dir is a folder "
                "that can be",
                path,
                error.strerror,
            )
        return Tuned(tuning, False)

    def _path(self, key: Mapping[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / f"tuning-{digest[:32]}.json"

    def _write(self, path: Path, tuning: Tuning) -> None:
        """Under a temporary name first: another replica may be reading."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(tuning.model_dump_json())
            Path(temporary).chmod(0o644)  # mkstemp made it private; a replica may run as another user
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
