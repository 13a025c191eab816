"""From a published folder to an engine: what could compute the model here, what of it is proven, what is fastest."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.card import MODEL_FILES, ModelCard, SelfTest
from service.engine import FILES, STAGES, DynamicEngine, Engine, SelfTestFailed, StaticEngine
from service.providers import (
    PREFERENCE,
    Compute,
    PrecisionChoice,
    ProviderChoice,
    ProviderName,
    ProviderUnavailable,
    Session,
    check_computes,
    hardware,
    open_session,
    require,
    unwanted_precision,
)
from service.tuning import Cache, Measured, Tuned, Tuning, lone_ms, measure

log = logging.getLogger(__name__)

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino")  # on which speed depends


class Candidate(NamedTuple):
    """What may compute a model."""

    provider: ProviderName
    compute: Compute


class Placement(NamedTuple):
    """A published model, and the part of the machine that it may use."""

    folder: Path
    card: ModelCard
    threads: int
    lanes: int
    gpu: int

    def open(self, candidate: Candidate, lanes: int) -> Engine:
        """An engine for `lanes` callers. Raises ProviderUnavailable."""
        provider, compute = candidate
        path = self.folder / MODEL_FILES[FILES[compute]]
        if provider == "cuda":

            def open_size(size: int) -> Session:
                return open_session(path, "cuda", compute, threads=self.threads, batch=size, gpu=self.gpu)

            return StaticEngine(open_size, "cuda", compute, lanes=lanes)
        wide = open_session(path, provider, compute, threads=self.threads)
        if lanes == 1:
            return DynamicEngine(wide)
        # A batch on all cores answers a lone request soonest. Under load a batch on each core may do more, since no
        # core ever waits for another; cores are divided when a session is made.
        narrow = open_session(path, provider, compute, threads=self.threads, streams=lanes)
        return DynamicEngine(wide, narrow, lanes=lanes)

    def most_lanes(self, provider: ProviderName) -> int:
        return min(self.lanes, STAGES) if provider == "cuda" else self.lanes


def load_engine(
    folder: Path,
    card: ModelCard,
    *,
    provider: ProviderChoice = "auto",
    precision: PrecisionChoice = "auto",
    threads: int,
    lanes: int = 1,
    max_batch: int | None = None,
    cache: Cache | None = None,
    gpu: int = 0,
) -> Engine:
    """Opens, warms up and proves a published model on what computes it fastest.

    Args:
        provider, precision: `auto`, or the one to take or else to fail. `auto` takes int8 and fp16 only from files
            that have passed their gate.
        threads: CPU cores that inference may use.
        lanes: how many threads may call `infer` at once, at most.
        max_batch: the largest batch. Unset, it is measured; or, without a cache, whoever calls brings batches of any
            size, and no client waits.
        cache: where measurements are remembered. Without one nothing is measured: the first that works is taken, in the
            order of `PREFERENCE`.
        gpu: the number of the GPU, for CUDA.

    Raises:
        ProviderUnavailable: nothing that was asked for can run it; the message says why.
        SelfTestFailed: the only one asked for computes wrong answers.
        CardError: the stored self-test cannot be read.
    """
    started = time.perf_counter()
    model = Placement(folder, card, threads, lanes, gpu)
    loading = _Loading(model, SelfTest.read(folder), max_batch)
    candidates = list(loading.usable(provider, precision))
    if cache is None:
        engine, difference = loading.first(candidates)
    else:
        engine, difference = loading.fastest(candidates, cache)
    log.info(
        "%s %d: ready on %s in %s after %.1f s, %d at once, in batches of up to %d, %.4f %% of the logits' range from "
        "the exact answers%s%s",
        card.name,
        card.version,
        engine.provider,
        engine.compute,
        time.perf_counter() - started,
        engine.lanes,
        engine.batch_sizes[-1],
        100 * difference,
        f"; measured: {_described(engine.tuned.tuning)}" if engine.tuned else "",
        "".join(f"; not on {what}: {why}" for what, why in engine.refused.items()),
    )
    return engine


class _Loading:
    """One model on its way to an engine.

    Attributes:
        errors: why candidates are out, by provider, or provider and precision. Without tracebacks, which would keep
            engines alive, and their memory on the GPU.
    """

    def __init__(self, model: Placement, stored: SelfTest, max_batch: int | None) -> None:
        self._model = model
        self._stored = stored
        self._max_batch = max_batch
        self.errors: dict[str, ProviderUnavailable | SelfTestFailed] = {}

    def usable(self, provider: ProviderChoice, precision: PrecisionChoice) -> Iterator[Candidate]:
        """What is here, and has its file, in the order of `PREFERENCE`."""
        for name in PREFERENCE if provider == "auto" else (provider,):
            try:
                require(name, self._model.gpu)
            except ProviderUnavailable as error:
                self._refuse(name, error)
                continue
            for compute in PREFERENCE[name] if precision == "auto" else (precision,):
                try:
                    check_computes(name, compute)
                    if reason := _unusable(self._model.card, name, compute, chosen=precision != "auto"):
                        raise ProviderUnavailable(reason)
                except ProviderUnavailable as error:
                    self._refuse(f"{name} {compute}", error)
                else:
                    yield Candidate(name, compute)

    def first(self, candidates: list[Candidate]) -> tuple[Engine, float]:
        """The first that works, and how far it is from the exact answers. Raises as `load_engine`."""
        for candidate in candidates:
            try:
                return self._ready(candidate, self._model.most_lanes(candidate.provider))
            except (ProviderUnavailable, SelfTestFailed) as error:
                self._refuse(" ".join(candidate), error)
        raise self._nothing()

    def fastest(self, candidates: list[Candidate], cache: Cache) -> tuple[Engine, float]:
        """The fastest that is proven, measured or remembered, and how far it is from the exact answers.

        Raises:
            as `load_engine`.
        """
        key = self._key(candidates)
        tuned = cache.tuned(key, lambda: self._measured(candidates))
        try:
            return self._ready(_chosen(candidates, tuned), tuned.tuning.best.lanes, tuned)
        except (ProviderUnavailable, SelfTestFailed):
            if not tuned.remembered:
                raise
        # It worked when it was measured: something has changed that the key does not tell.
        tuned = cache.renewed(key, lambda: self._measured(candidates))
        return self._ready(_chosen(candidates, tuned), tuned.tuning.best.lanes, tuned)

    def _measured(self, candidates: list[Candidate]) -> Tuning:
        """Times every candidate that is proven, one after the other; those that cannot win, not for long."""
        measured: list[Measured] = []
        whole = True
        for candidate in candidates:
            try:
                found, of_all = self._timed(candidate, to_beat=max((one.peak for one in measured), default=0.0))
                measured += found
                whole &= of_all
            except (ProviderUnavailable, SelfTestFailed) as error:
                self._refuse(" ".join(candidate), error)
            except Exception as error:  # out of memory, a missing kernel: onnxruntime's classes share no other base
                self._refuse(" ".join(candidate), _does_not_run(candidate, error))
        if not measured:
            raise self._nothing()
        refused = {what: str(error) for what, error in self.errors.items()}
        return Tuning(measured=tuple(measured), refused=refused, whole=whole)

    def _timed(self, candidate: Candidate, to_beat: float) -> tuple[list[Measured], bool]:
        """One candidate with one lane and with all, and whether all its batch sizes ran.

        Raises:
            ProviderUnavailable, SelfTestFailed, Exception: it does not run.
        """
        most = self._model.most_lanes(candidate.provider)
        engine = self._model.open(candidate, most)
        engine.warm_up(self._given_sizes(engine))
        engine.self_test(self._stored)
        lone = lone_ms(lambda size: engine.blank(size, alone=True))
        sizes = engine.sizes() if self._max_batch is None else tuple(dict.fromkeys((1, self._max_batch)))
        found = []
        whole = True
        for lanes in dict.fromkeys((1, most)):
            run = functools.partial(engine.blank, alone=lanes == 1)
            rates = measure(run, callers=lanes, sizes=sizes, to_beat=to_beat)
            whole &= rates.whole
            found.append(
                Measured(
                    provider=candidate.provider,
                    compute=candidate.compute,
                    lanes=lanes,
                    lone_ms=lone,
                    images_per_second=rates.images_per_second,
                )
            )
        return found, whole

    def _given_sizes(self, engine: Engine) -> tuple[int, ...]:
        """The batch sizes where none were measured."""
        return engine.sizes(self._max_batch) if self._max_batch else engine.fewest_sizes

    def _ready(self, candidate: Candidate, lanes: int, tuned: Tuned | None = None) -> tuple[Engine, float]:
        """An engine that is warmed up and proven, and how far it is from the exact answers.

        Raises:
            ProviderUnavailable: it cannot run.
            SelfTestFailed: it computes wrong answers.
        """
        try:
            engine = self._model.open(candidate, lanes)
            engine.tuned = tuned
            sizes = tuned.tuning.best.batch_sizes if tuned and not self._max_batch else self._given_sizes(engine)
            engine.warm_up(sizes)
            difference = engine.self_test(self._stored)
        except (ProviderUnavailable, SelfTestFailed):
            raise
        except Exception as error:  # as above
            raise _does_not_run(candidate, error) from error
        engine.refused = tuned.tuning.refused if tuned else {what: str(error) for what, error in self.errors.items()}
        return engine, difference

    def _key(self, candidates: list[Candidate]) -> dict[str, str]:
        """Everything that speed depends on."""
        model = self._model
        key = {
            "candidates": "; ".join(" ".join(candidate) for candidate in candidates),
            "threads": str(model.threads),
            "lanes": str(model.lanes),
            "max_batch": str(self._max_batch),
        }
        for candidate in candidates:
            key[f"file of {candidate.compute}"] = model.card.files[FILES[candidate.compute]].sha256
            for name, value in hardware(candidate.provider, candidate.compute, model.gpu).items():
                key[f"{' '.join(candidate)}: {name}"] = value
        for package in PACKAGES:
            try:
                key[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return key

    def _refuse(self, what: str, error: ProviderUnavailable | SelfTestFailed) -> None:
        self.errors[what] = type(error)(str(error))

    def _nothing(self) -> ProviderUnavailable | SelfTestFailed:
        """What to raise where nothing is left."""
        if len(self.errors) == 1:
            return next(iter(self.errors.values()))
        reasons = "; ".join(f"{what}: {why}" for what, why in self.errors.items())
        return ProviderUnavailable(f"nothing runs this model: {reasons}")


def _chosen(candidates: list[Candidate], tuned: Tuned) -> Candidate:
    best = tuned.tuning.best
    (candidate,) = (one for one in candidates if one == (best.provider, best.compute))
    return candidate


def _does_not_run(candidate: Candidate, error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(f"{candidate.provider} does not run this model: {error}")


def _described(tuning: Tuning) -> str:
    """In one line, the fastest first."""
    ranked = sorted(tuning.measured, key=lambda one: -one.peak)
    return ", ".join(
        f"{one.provider} {one.compute} {one.lanes} at once {one.peak:.0f} images/s, {one.lone_ms:.1f} ms alone"
        for one in ranked
    )


def _unusable(card: ModelCard, provider: ProviderName, compute: Compute, *, chosen: bool) -> str | None:
    """Why a precision is not even tried; `chosen` is one that somebody asked for by name."""
    file = card.files.get(FILES[compute])
    if file is None:
        return (
            f"{card.name} {card.version} has no {compute} file: make one with "
            f"`python -m model_export quantize {card.name} --precision {compute}`"
        )
    if chosen:
        return None
    if FILES[compute] != "fp32" and file.gate is None:
        return (
            f"its {compute} file was never compared with fp32; set the precision to {compute} to take it all the same"
        )
    return unwanted_precision(provider, compute)
