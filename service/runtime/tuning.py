"""Measures what computes a model fastest on this machine, and remembers it.

A candidate is an execution provider, a precision and a number of lanes (batches that run at once). Each is timed with
a single image, then under load with larger and larger batches. A larger batch makes every client wait longer, so it
has to earn its place: sizes grow only as long as the engine gets faster.
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

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from service.runtime.choices import Precision, ProviderName

log = logging.getLogger(__name__)

# A size is kept if it gains this much over the next smaller one. (The service gains more: it hands over fewer batches.)
GAIN = 1.02

# Candidates that differ by less are equal: the difference is within the noise of a busy machine.
EQUAL = 1.04

MISSES = 2  # after this many sizes in a row without a gain, no larger one is tried

# A candidate that would lose even with this gain over single images is not tried in larger batches.
PROMISE = 1.5

# Each size is measured for at least this long, and with at least this many batches on each lane.
SECONDS = 0.15
BATCHES = 3

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measured(BaseModel):
    """A candidate and its speed.

    Attributes:
        lone_ms: milliseconds for a single image on an idle engine.
        images_per_second: with all lanes busy, by batch size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: ProviderName
    # The cache file calls it `compute`, as earlier versions of the service do: replicas may share a cache.
    precision: Precision = Field(validation_alias=AliasChoices("precision", "compute"), serialization_alias="compute")
    lanes: PositiveInt
    lone_ms: Positive
    images_per_second: dict[PositiveInt, Positive]

    @field_validator("images_per_second")
    @classmethod
    def _has_single_images(cls, rates: dict[int, float]) -> dict[int, float]:
        if 1 not in rates:
            raise ValueError("batch size 1 is missing")
        return rates

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that gain over all smaller ones, ascending."""
        kept: list[int] = []
        for size in sorted(self.images_per_second):
            if not kept or self.images_per_second[size] >= GAIN * self.images_per_second[kept[-1]]:
                kept.append(size)
        return tuple(kept)

    @property
    def peak(self) -> float:
        """Images/s at the largest of `batch_sizes`."""
        return self.images_per_second[self.batch_sizes[-1]]


class Tuning(BaseModel):
    """The measurements of all candidates.

    Attributes:
        refused: why other candidates were not measured, by provider or by provider and precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measured: tuple[Measured, ...] = Field(min_length=1)
    refused: dict[str, str] = {}
    # False if a candidate or a batch size failed, say because another process held the memory at that moment.
    whole: bool = Field(default=True, exclude=True)

    @property
    def best(self) -> Measured:
        """The fastest under load. Ties go to the fastest for a lone request, then to the most lanes.

        Lanes break the tie because a batch on a core of its own suffers least from decoding and HTTP on other cores,
        which this measurement leaves out.
        """
        peak = max(candidate.peak for candidate in self.measured)
        equals = [candidate for candidate in self.measured if EQUAL * candidate.peak >= peak]
        lone = min(candidate.lone_ms for candidate in equals)
        equals = [candidate for candidate in equals if candidate.lone_ms <= EQUAL * lone]
        return max(equals, key=lambda candidate: (candidate.lanes, candidate.peak))


class Tuned(NamedTuple):
    """A tuning, and whether it comes from an earlier start."""

    tuning: Tuning
    remembered: bool


class Rates(NamedTuple):
    """Images/s by batch size, and whether every size ran."""

    images_per_second: dict[int, float]
    whole: bool


def measure(run: Callable[[int], object], *, lanes: int, sizes: Sequence[int], to_beat: float = 0.0) -> Rates:
    """Times batches of ascending sizes until larger ones gain nothing, or the candidate cannot win.

    Args:
        run: runs one batch of a size; called from several threads at once.
        lanes: how many batches run at once.
        sizes: ascending from 1.
        to_beat: images/s of the best candidate so far.
    """
    rates: dict[int, float] = {}
    best, missed = 0.0, 0
    for size in sizes:
        try:
            rates[size] = throughput(run, size, lanes)
        except Exception as error:
            if not rates:
                raise
            log.warning("batches of %d do not run, smaller ones do: %s", size, error)  # out of memory, say
            return Rates(rates, False)
        missed = 0 if rates[size] >= GAIN * best else missed + 1
        best = max(best, rates[size])
        if missed == MISSES or PROMISE * best < to_beat:
            break
    return Rates(rates, True)


def lone_ms(run: Callable[[int], object]) -> float:
    """Milliseconds for a single image on an idle engine."""
    return 1000 / throughput(run, 1, 1)


def throughput(run: Callable[[int], object], size: int, lanes: int) -> float:
    """Images/s in batches of one size with all lanes busy. Raises what `run` raises, on any lane."""
    run(size)  # compiles for this shape
    fastest: list[float] = []  # the best time of each lane: noise only ever slows a run down
    failures: list[Exception] = []
    end = time.perf_counter() + SECONDS

    def run_lane() -> None:
        seconds: list[float] = []
        try:
            while len(seconds) < BATCHES or time.perf_counter() < end:
                started = time.perf_counter()
                run(size)
                seconds.append(time.perf_counter() - started)
        except Exception as error:  # out of memory, say: raised again below, on the calling thread
            failures.append(error.with_traceback(None))  # a traceback would keep the engine alive
        else:
            fastest.append(min(seconds))

    threads = [threading.Thread(target=run_lane, name=f"tuning-{i}") for i in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(size / seconds for seconds in fastest)


class Cache:
    """Tunings that outlive the process, one small file each. If its folder cannot be used, every start measures again.

    Args:
        folder: created with its first file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: Mapping[str, str]) -> Tuning | None:
        """What is remembered.

        Args:
            key: everything that the result depends on: the model, the machine, the software.
        """
        path = self._path(key)
        try:
            return Tuning.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("measuring again: the cache file %s cannot be used: %s", path, error)
            return None

    def keep(self, key: Mapping[str, str], tuning: Tuning) -> None:
        """Remembers a tuning if it is whole."""
        if not tuning.whole:
            log.info("what failed while it was measured may pass, so the next start measures again")
            return
        path = self._path(key)
        try:
            self._write(path, tuning)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): every start will measure again until cache_dir is a writable folder",
                path,
                error.strerror,
            )

    def _path(self, key: Mapping[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / f"tuning-{digest[:32]}.json"

    def _write(self, path: Path, tuning: Tuning) -> None:
        """Writes under a temporary name first: another replica may be reading."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(tuning.model_dump_json(by_alias=True))
            Path(temporary).chmod(0o644)  # mkstemp made it private, and another replica may run as another user
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
