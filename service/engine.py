"""One published model in one ONNX Runtime session: proven at start, then `infer`.

Knows no HTTP and no queue. `model_export` uses the same class for its parity gate and for evaluation, so what is
measured there is what serves here.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from service.card import MODEL_FILES, ModelCard, Precision, SelfTest
from service.providers import (
    PREFERENCE,
    Compute,
    PrecisionChoice,
    ProviderChoice,
    ProviderName,
    ProviderUnavailable,
    Session,
    check_computes,
    open_session,
    processor,
    require,
    unwanted_precision,
    unwanted_provider,
)
from service.tuning import Cache, Tuned, measure, powers_of_two

log = logging.getLogger(__name__)

# The ONNX file's interface, the same for every model.
INPUT = "image"  # uint8 (N, 3, crop, crop), RGB
Output = Literal["logits", "embedding", "feature_map"]
OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "feature_map")

# Largest difference to PyTorch's fp32 logits that the self-test allows, relative to their range. Measured on ResNets:
# 1e-6 in fp32; 0.3 % to 3 % in bf16, growing with depth; a wrong kernel is off by the range itself.
TOLERANCE: dict[Compute, float] = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.01, "int8": 0.2}


# The file that each precision is computed from.
FILES: dict[Compute, Precision] = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}

# The largest batch that tuning tries. On a CPU, larger ones gained nothing and take long; a GPU has room for many.
LARGEST: dict[ProviderName, int] = {"cuda": 64, "openvino": 16, "cpu": 16}

# Batches at once on a GPU: one computes while the next is copied to it.
STAGES = 2


class SelfTestFailed(Exception):
    """The session's answers are not those stored at export."""


class EngineInfo(NamedTuple):
    """What is known of an engine, for those who cannot see it.

    Attributes:
        provider: the execution provider in use.
        compute: the precision of its arithmetic.
        lanes: how many batches may run at once; more gain nothing.
        refused: for `auto`, why what is faster was not taken, by provider or provider and precision.
        batch_sizes: those run by `warm_up`, ascending.
        tuned: how they were chosen; None if they were given.
    """

    provider: ProviderName
    compute: Compute
    lanes: int
    refused: dict[str, str]
    batch_sizes: tuple[int, ...]
    tuned: Tuned | None


class Engine:
    """One model in one or two sessions. Its attributes are those of `EngineInfo`."""

    def __init__(self, wide: Session, narrow: Session | None = None, *, lanes: int = 1) -> None:
        """
        Args:
            wide: computes a batch on all cores.
            narrow: computes `lanes` batches at once, each on its share of the cores; None where `wide` does both.
        """
        self._wide = wide.ort
        self._narrow = narrow.ort if narrow else wide.ort
        self.provider = wide.provider
        self.compute = wide.compute
        self.lanes = lanes
        self.refused: dict[str, str] = {}
        self.batch_sizes: tuple[int, ...] = ()
        self.tuned: Tuned | None = None

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(self.provider, self.compute, self.lanes, self.refused, self.batch_sizes, self.tuned)

    def infer(
        self, images: np.ndarray, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        """Runs one batch. Up to `lanes` threads may call it at once.

        Args:
            images: uint8 `(N, 3, crop, crop)`, RGB, as `imaging.decode` makes them.
            outputs: `logits` float32 `(N, classes)`, `embedding` `(N, C)`, `feature_map` `(N, C, h, w)`.
            alone: whether no other batch runs meanwhile, so that this one may have all cores.
        """
        session = self._wide if alone else self._narrow
        return dict(zip(outputs, session.run(list(outputs), {INPUT: images}), strict=True))

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Runs every batch size once, so that no request pays for compiling its shape."""
        for size in batch_sizes:
            for alone in self._ways():
                self.infer(self._blank(size), alone=alone)
        self.batch_sizes = tuple(batch_sizes)

    def tune(self, cache: Cache, key: dict[str, str]) -> Tuned:
        """How fast the batch sizes are with all lanes busy, measured now or remembered."""
        alone = self.lanes == 1
        return cache.tuned(
            key | {"provider": self.provider, "precision": self.compute, "lanes": str(self.lanes)},
            lambda: measure(
                lambda size: self.infer(self._blank(size), alone=alone),
                callers=self.lanes,
                largest=LARGEST[self.provider],
            ),
        )

    def self_test(self, stored: SelfTest) -> float:
        """Compares the answers to the stored inputs with those of PyTorch.

        Returns:
            The largest difference of a logit, relative to the range of the stored logits.

        Raises:
            SelfTestFailed: it is larger than this engine's precision explains.
        """
        logits = [self.infer(stored.images, alone=alone)["logits"] for alone in self._ways()]
        difference = float(np.abs(np.stack(logits) - stored.logits).max() / np.ptp(stored.logits))
        if not difference <= TOLERANCE[self.compute]:  # also when it is not a number
            raise SelfTestFailed(
                f"{self.provider} computes wrong answers: the logits differ by {difference:.1%} of their range from "
                f"those stored at export; {self.compute} explains {TOLERANCE[self.compute]:.1%}"
            )
        return difference

    def _ways(self) -> tuple[bool, ...]:
        """The values of `alone` that mean different sessions."""
        return (True,) if self._wide is self._narrow else (True, False)

    def _blank(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._wide.get_inputs()[0].shape[1:]), np.uint8)


def load_engine(
    folder: Path,
    card: ModelCard,
    *,
    provider: ProviderChoice = "auto",
    precision: PrecisionChoice = "auto",
    threads: int,
    lanes: int = 1,
    max_batch: int | Cache = 1,
) -> Engine:
    """Opens, tunes, warms up and proves a published model on the fastest provider and precision that work.

    Args:
        provider, precision: `auto`, or the one to take or else to fail. `auto` takes int8 and fp16 only from files
            that have passed their gate.
        threads: CPU cores that inference may use.
        lanes: how many threads will call `infer` at once.
        max_batch: the largest batch; or, to have the best size measured, where that is remembered.

    Raises:
        ProviderUnavailable: nothing that was asked for can run it; the message says why.
        SelfTestFailed: the only one asked for computes wrong answers.
        CardError: the stored self-test cannot be read.
    """
    stored = SelfTest.read(folder)
    errors: dict[str, ProviderUnavailable | SelfTestFailed] = {}
    for name in PREFERENCE if provider == "auto" else (provider,):
        computes = PREFERENCE[name] if precision == "auto" else (precision,)
        try:
            require(name)
            if provider == "auto" and (reason := unwanted_provider(name)):
                raise ProviderUnavailable(reason)
        except ProviderUnavailable as error:
            errors[name] = error
            continue
        for compute in computes:
            started = time.perf_counter()
            try:
                check_computes(name, compute)
                if reason := _unusable(card, name, compute, chosen=precision != "auto"):
                    raise ProviderUnavailable(reason)
                engine, difference = _ready(folder, card, stored, name, compute, threads, lanes, max_batch)
            except (ProviderUnavailable, SelfTestFailed) as error:
                errors[f"{name} {compute}"] = error
                continue
            engine.refused = {what: str(error) for what, error in errors.items()}
            log.info(
                "%s %d: ready on %s in %s after %.1f s, in batches of up to %d, %.4f %% of the logits' range from "
                "PyTorch%s",
                card.name,
                card.version,
                name,
                compute,
                time.perf_counter() - started,
                engine.batch_sizes[-1],
                100 * difference,
                "".join(f"; not on {what}: {why}" for what, why in engine.refused.items()),
            )
            return engine
    if len(errors) == 1:
        raise next(iter(errors.values()))
    raise ProviderUnavailable("nothing runs this model: " + "; ".join(f"{what}: {why}" for what, why in errors.items()))


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


def _open(folder: Path, provider: ProviderName, compute: Compute, threads: int, lanes: int) -> Engine:
    """The sessions for `lanes` callers on one provider. Raises ProviderUnavailable."""
    path = folder / MODEL_FILES[FILES[compute]]
    if provider == "cuda":
        lanes = min(lanes, STAGES)
    if provider == "openvino" and compute == "fp32":
        # A second session doubles the weights in memory; in fp32 batches take so long that it gains nothing.
        lanes = 1
    wide = open_session(path, provider, compute, threads=threads)
    if provider != "openvino" or lanes == 1:
        return Engine(wide, lanes=lanes)
    # OpenVINO divides its cores among streams when it compiles. One stream on all cores answers a lone request soonest;
    # under load, one stream on each core does more, since no core ever waits for another that decodes or talks HTTP.
    return Engine(wide, open_session(path, provider, compute, threads=threads, streams=lanes), lanes=lanes)


def _ready(
    folder: Path,
    card: ModelCard,
    stored: SelfTest,
    provider: ProviderName,
    compute: Compute,
    threads: int,
    lanes: int,
    max_batch: int | Cache,
) -> tuple[Engine, float]:
    """An engine that is tuned, warmed up and proven, and how far it is from PyTorch.

    Raises:
        ProviderUnavailable: it cannot run.
        SelfTestFailed: it computes wrong answers.
    """
    engine = _open(folder, provider, compute, threads, lanes)
    try:
        if isinstance(max_batch, Cache):
            tuned = engine.tune(max_batch, _key(card, provider, compute, threads))
            if not tuned.remembered:
                # Measuring has left arenas as large as the largest batch that was tried: start afresh.
                del engine
                engine = _open(folder, provider, compute, threads, lanes)
            engine.tuned = tuned
            engine.warm_up(tuned.tuning.batch_sizes)
        else:
            engine.warm_up(powers_of_two(max_batch))
        return engine, engine.self_test(stored)
    except (ProviderUnavailable, SelfTestFailed):
        raise
    except Exception as error:  # out of memory, a missing kernel: onnxruntime's classes share no other base
        raise ProviderUnavailable(f"{provider} does not run this model: {error}") from error


def _key(card: ModelCard, provider: ProviderName, compute: Compute, threads: int) -> dict[str, str]:
    """What the best batch size depends on, besides what the engine knows."""
    key = {
        "model": card.files[FILES[compute]].sha256,
        "processor": processor(provider),
        "threads": str(threads),
    }
    for package in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino"):
        try:
            key[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return key
