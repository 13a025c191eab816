"""From a published folder to the fastest engine that runs the model here and passes the self-test."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from service.runtime.choices import FILES, PREFERENCE, Precision, PrecisionChoice, ProviderChoice, ProviderName
from service.runtime.engine import Engine, EngineInfo
from service.runtime.gpu import decoding
from service.runtime.model_card import ModelCard
from service.runtime.placement import Candidate, Placement
from service.runtime.providers import ProviderUnavailable, check_computes, require, unwanted_precision
from service.runtime.self_test import SelfTest, SelfTestFailed
from service.runtime.tuning import Cache, Measured, Tuned, Tuning, lone_ms, measure
from service.runtime.tuning_keys import key_of_files, key_of_shape
from service.runtime.turns import Turns

log = logging.getLogger(__name__)

MACHINE = Turns()  # of this process


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
    measures: bool = True,
    gpu: int = 0,
    gpu_decoding: bool = False,
) -> Engine:
    """Opens, warms up and proves a published model on whatever computes it fastest.

    Args:
        provider, precision: `auto`, or the only one to try. `auto` uses precisions below fp32 only if they passed their
            gate.
        threads: CPU cores that inference may use.
        lanes: how many threads may call `infer` at once, at most.
        max_batch: the largest batch. None: it is measured, or without a cache left to the callers.
        cache: remembers measurements. Without one nothing is measured: the first candidate that works, in the order of
            `PREFERENCE`, is taken.
        measures: whether what the cache does not know is measured; else it is as without a cache.
        gpu: the number of the GPU, for CUDA.
        gpu_decoding: the engine takes JPEGs, too, and decodes them on its GPU, if its preprocessing is the classic one.

    Raises:
        ProviderUnavailable: no provider and precision that may be used can run the model; the message says why.
        SelfTestFailed: the only candidate computes wrong answers.
        CardError: the stored self-test cannot be read.
    """
    started = time.perf_counter()
    if gpu_decoding and not card.preprocessing.is_classic:
        log.info("%s %d: JPEGs are decoded on the processor, as its preprocessing asks", card.name, card.version)
        gpu_decoding = False
    placement = Placement(folder, card, threads, lanes, max_batch, gpu, gpu_decoding)
    loading = _Loading(placement, SelfTest.read(folder))
    candidates = list(loading.usable(provider, precision))
    with MACHINE.together():
        engine, error = loading.fastest(candidates, cache, measures) if cache else loading.first(candidates)
    info = engine.info
    log.info(
        "%s %d: ready on %s in %s after %.1f s; lanes: %d, largest batch: %d, largest error: %.4f %% of the logits' "
        "range%s%s",
        card.name,
        card.version,
        info.provider,
        info.precision,
        time.perf_counter() - started,
        info.lanes,
        info.batch_sizes[-1],
        100 * error,
        f"; measured: {_summary(info.tuned.tuning)}" if info.tuned else "",
        "".join(f"; not on {candidate}: {reason}" for candidate, reason in info.refused.items()),
    )
    return engine


class _Loading:
    """One model on its way to an engine.

    Attributes:
        errors: why candidates are out, by provider or by provider and precision. Kept without tracebacks, which would
            keep engines alive, and with them their memory on the GPU.
    """

    def __init__(self, placement: Placement, stored: SelfTest) -> None:
        self._placement = placement
        self._stored = stored
        self._is_typical = True  # whether what was found holds for other weights of the same shape
        self.errors: dict[str, ProviderUnavailable | SelfTestFailed] = {}

    def usable(self, provider: ProviderChoice, precision: PrecisionChoice) -> Iterator[Candidate]:
        """The candidates that are available here and have their file, in the order of `PREFERENCE`."""
        for name in PREFERENCE if provider == "auto" else (provider,):
            try:
                if self._placement.gpu_decoding and name != "cuda":
                    raise ProviderUnavailable("only CUDA decodes JPEGs on a GPU: turn `gpu_decoding` off")
                require(name, self._placement.gpu)
                if self._placement.gpu_decoding:
                    decoding.require()
            except ProviderUnavailable as error:
                self._refuse(name, error)
                continue
            precisions = PREFERENCE[name] if precision == "auto" else (precision,)
            for candidate in (Candidate(name, each) for each in precisions):
                try:
                    check_computes(*candidate)
                    if reason := _unusable(self._placement.card, *candidate, chosen=precision != "auto"):
                        raise ProviderUnavailable(reason)
                except ProviderUnavailable as error:
                    self._refuse(" ".join(candidate), error)
                else:
                    yield candidate

    def first(self, candidates: list[Candidate]) -> tuple[Engine, float]:
        """The first candidate that works, and its error in the self-test. Raises as `load_engine` does."""
        for candidate in candidates:
            try:
                return self._ready(candidate, self._placement.most_lanes(candidate.provider))
            except (ProviderUnavailable, SelfTestFailed) as error:
                self._refuse(" ".join(candidate), error)
        raise self._failure()

    def fastest(self, candidates: list[Candidate], cache: Cache, measures: bool) -> tuple[Engine, float]:
        """The fastest proven candidate, remembered or measured, and its error in the self-test.

        Raises:
            as `load_engine`.
        """
        of_files, of_shape = (key(self._placement, candidates) for key in (key_of_files, key_of_shape))
        untried = [of_files, of_shape]  # what was measured of these very files, or of other weights of the same shape
        if engine := self._remembered(untried, cache):
            return engine
        if not measures:
            return self.first(candidates)
        with MACHINE.alone():
            # Meanwhile another model of the same shape may have been measured.
            if engine := self._remembered(untried, cache):
                return engine
            tuning = self._measure(candidates)
        cache.keep(of_shape if self._is_typical else of_files, tuning)
        return self._ready_as(Tuned(tuning, False))

    def _remembered(self, keys: list[dict[str, str]], cache: Cache) -> tuple[Engine, float] | None:
        """As what is remembered under the first of the keys, if that works here, too. A key that leads to what does not
        is taken out.
        """
        for key in list(keys):
            if tuning := cache.find(key):
                try:
                    return self._ready_as(Tuned(tuning, True))
                except (ProviderUnavailable, SelfTestFailed):
                    # With these weights it does not; or something has changed that the key does not hold.
                    self._is_typical = False
                    keys.remove(key)
        return None

    def _measure(self, candidates: list[Candidate]) -> Tuning:
        """Times every proven candidate in turn; stops early with those that cannot win."""
        measured: list[Measured] = []
        whole = True
        for candidate in candidates:
            try:
                to_beat = max((result.peak for result in measured), default=0.0)
                results, every_size_ran = self._time(candidate, to_beat)
                measured += results
                whole &= every_size_ran
            except SelfTestFailed as error:
                self._is_typical = False
                self._refuse(" ".join(candidate), error)
            except Exception as error:
                # Out of memory, say, because another process holds the GPU's; or a missing kernel: onnxruntime's
                # classes share no other base. What may pass is not remembered.
                whole = False
                self._refuse(" ".join(candidate), _does_not_run(candidate, error))
        if not measured:
            raise self._failure()
        return Tuning(measured=tuple(measured), refused=self._reasons(), whole=whole)

    def _time(self, candidate: Candidate, to_beat: float) -> tuple[list[Measured], bool]:
        """Times one candidate with one lane and with all; also returns whether every batch size ran.

        Raises:
            ProviderUnavailable, SelfTestFailed, Exception: the candidate does not run.
        """
        placement, provider = self._placement, candidate.provider
        most = placement.most_lanes(provider)
        engine = placement.open(EngineInfo(*candidate, lanes=most, batch_sizes=placement.default_sizes(provider)))
        engine.warm_up()
        engine.self_test(self._stored)
        lone = lone_ms(lambda size: engine.run_black(size, alone=True))
        measured = []
        whole = True
        for lanes in dict.fromkeys((1, most)):
            run = functools.partial(engine.run_black, alone=lanes == 1)
            rates = measure(run, lanes=lanes, sizes=placement.sizes_to_measure(provider), to_beat=to_beat)
            whole &= rates.whole
            measured.append(
                Measured(
                    provider=provider,
                    precision=candidate.precision,
                    lanes=lanes,
                    lone_ms=lone,
                    images_per_second=rates.images_per_second,
                )
            )
        return measured, whole

    def _ready_as(self, tuned: Tuned) -> tuple[Engine, float]:
        """As `_ready`, for the best of a tuning."""
        best = tuned.tuning.best
        return self._ready(Candidate(best.provider, best.precision), best.lanes, tuned)

    def _ready(self, candidate: Candidate, lanes: int, tuned: Tuned | None = None) -> tuple[Engine, float]:
        """An engine that is warmed up and proven, and its error in the self-test.

        Raises:
            ProviderUnavailable: it cannot run.
            SelfTestFailed: it computes wrong answers.
        """
        placement = self._placement
        sizes = placement.default_sizes(candidate.provider)
        if tuned and placement.max_batch is None:
            sizes = tuned.tuning.best.batch_sizes
        # What was found now goes before what is remembered: that may be of another model with the same files.
        refused = (tuned.tuning.refused if tuned else {}) | self._reasons()
        info = EngineInfo(
            *candidate,
            lanes=lanes,
            batch_sizes=sizes,
            refused=refused,
            tuned=tuned,
            decodes=placement.gpu_decoding,
        )
        try:
            engine = placement.open(info)
            engine.warm_up()
            return engine, engine.self_test(self._stored)
        except (ProviderUnavailable, SelfTestFailed):
            raise
        except Exception as error:  # as in `_measure`
            raise _does_not_run(candidate, error) from error

    def _refuse(self, candidate: str, error: ProviderUnavailable | SelfTestFailed) -> None:
        self.errors[candidate] = type(error)(str(error))

    def _reasons(self) -> dict[str, str]:
        return {candidate: str(error) for candidate, error in self.errors.items()}

    def _failure(self) -> ProviderUnavailable | SelfTestFailed:
        """The error to raise if no candidate is left."""
        if len(self.errors) == 1:
            return next(iter(self.errors.values()))
        reasons = "; ".join(f"{candidate}: {reason}" for candidate, reason in self.errors.items())
        return ProviderUnavailable(f"nothing here runs this model: {reasons}")


def _does_not_run(candidate: Candidate, error: Exception) -> ProviderUnavailable:
    if isinstance(error, ProviderUnavailable):
        return error
    return ProviderUnavailable(f"{candidate.provider} does not run this model: {error}")


def _summary(tuning: Tuning) -> str:
    """The measurements in one line, the fastest first."""
    ranked = sorted(tuning.measured, key=lambda result: -result.peak)
    return ", ".join(
        f"{result.provider} {result.precision} {result.lanes} at once {result.peak:.0f} images/s, "
        f"{result.lone_ms:.1f} ms alone"
        for result in ranked
    )


def _unusable(card: ModelCard, provider: ProviderName, precision: Precision, *, chosen: bool) -> str | None:
    """Why a precision is not tried; None if it is. `chosen`: the user named it instead of `auto`."""
    command = f"`python -m model_export quantize {card.name}@{card.version} --data FOLDER --precision {precision}`"
    file = card.files.get(FILES[precision])
    if file is None:
        return f"{card.name} {card.version} has no {precision} file: make one with {command}"
    if chosen:
        return None
    if reason := unwanted_precision(provider, precision):
        return reason
    if precision != "fp32" and card.gate(precision) is None:
        return (
            f"its {precision} was never compared with fp32: do that with {command}, or set the precision to "
            f"{precision} to use it anyway"
        )
    return None
