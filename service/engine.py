"""One published model in one ONNX Runtime session: proven at start, then `infer`.

Knows no HTTP and no queue. `model_export` uses the same class for its parity gate and for evaluation, so what is
measured there is what serves here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from service.card import MODEL_FILES, ModelCard, SelfTest
from service.providers import (
    Compute,
    ProviderChoice,
    ProviderName,
    ProviderUnavailable,
    Session,
    candidates,
    open_session,
    refusal_in_auto,
)

log = logging.getLogger(__name__)

# The ONNX file's interface, the same for every model.
INPUT = "image"  # uint8 (N, 3, crop, crop), RGB
Output = Literal["logits", "embedding", "feature_map"]
OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "feature_map")

# Largest difference to PyTorch's fp32 logits that the self-test allows, relative to their range. Measured on ResNets:
# 1e-6 in fp32; 0.3 % to 3 % in bf16, growing with depth; a wrong kernel is off by the range itself.
TOLERANCE: dict[Compute, float] = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.01, "int8": 0.2}


class SelfTestFailed(Exception):
    """The session's answers are not those stored at export."""


class Engine:
    """A session and what is known of it.

    Attributes:
        provider: the execution provider in use.
        compute: the precision of its arithmetic.
        refused: for `auto`, why each faster provider was not taken.
        warmed: the batch sizes run by `warm_up`.
    """

    def __init__(self, session: Session, refused: dict[ProviderName, str] | None = None) -> None:
        self._session = session.ort
        self.provider = session.provider
        self.compute = session.compute
        self.refused = refused or {}
        self.warmed: tuple[int, ...] = ()

    def infer(self, images: np.ndarray, outputs: Sequence[Output] = ("logits",)) -> dict[Output, np.ndarray]:
        """Runs one batch.

        Args:
            images: uint8 `(N, 3, crop, crop)`, RGB, as `imaging.decode` makes them.
            outputs: `logits` float32 `(N, classes)`, `embedding` `(N, C)`, `feature_map` `(N, C, h, w)`.
        """
        return dict(zip(outputs, self._session.run(list(outputs), {INPUT: images}), strict=True))

    def warm_up(self, max_batch: int) -> None:
        """Runs every batch size from 1 to `max_batch` once, so that no request pays for compiling its shape."""
        shape = self._session.get_inputs()[0].shape[1:]
        for size in range(1, max_batch + 1):
            self.infer(np.zeros((size, *shape), np.uint8))
        self.warmed = tuple(range(1, max_batch + 1))

    def self_test(self, stored: SelfTest) -> float:
        """Compares the answers to the stored inputs with those of PyTorch.

        Returns:
            The largest difference of a logit, relative to the range of the stored logits.

        Raises:
            SelfTestFailed: it is larger than this engine's precision explains.
        """
        logits = self.infer(stored.images)["logits"]
        difference = float(np.abs(logits - stored.logits).max() / np.ptp(stored.logits))
        if not difference <= TOLERANCE[self.compute]:  # also when it is not a number
            raise SelfTestFailed(
                f"{self.provider} computes wrong answers: the logits differ by {difference:.1%} of their range from "
                f"those stored at export; {self.compute} explains {TOLERANCE[self.compute]:.1%}"
            )
        return difference


def load_engine(folder: Path, card: ModelCard, *, provider: ProviderChoice, threads: int, max_batch: int) -> Engine:
    """Opens, warms up and proves a published model on the best provider that works, or on the one asked for.

    Raises:
        ProviderUnavailable: no provider, or not the one asked for, can run it; the message says why.
        SelfTestFailed: the provider asked for computes wrong answers.
        CardError: the stored self-test cannot be read.
    """
    stored = SelfTest.read(folder)
    refused: dict[ProviderName, str] = {}
    for name in candidates(provider):
        started = time.perf_counter()
        try:
            if provider == "auto" and (reason := refusal_in_auto(name)):
                raise ProviderUnavailable(reason)
            engine = Engine(open_session(folder / MODEL_FILES["fp32"], name, threads=threads), refused)
            difference = _prove(engine, max_batch, stored)
        except (ProviderUnavailable, SelfTestFailed) as error:
            if provider != "auto":
                raise
            refused[name] = str(error)
            continue
        log.info(
            "%s %d: ready on %s in %s after %.1f s, %.4f %% of the logits' range from PyTorch%s",
            card.name,
            card.version,
            name,
            engine.compute,
            time.perf_counter() - started,
            100 * difference,
            "".join(f"; not on {other}: {why}" for other, why in refused.items()),
        )
        return engine
    raise ProviderUnavailable(
        "no execution provider runs this model: " + "; ".join(f"{name}: {why}" for name, why in refused.items())
    )


def _prove(engine: Engine, max_batch: int, stored: SelfTest) -> float:
    """Warm-up and self-test. Raises SelfTestFailed, or ProviderUnavailable when it cannot run at all."""
    try:
        engine.warm_up(max_batch)
        return engine.self_test(stored)
    except SelfTestFailed:
        raise
    except Exception as error:  # out of memory, a missing kernel: onnxruntime's classes share no other base
        raise ProviderUnavailable(f"{engine.provider} does not run this model: {error}") from error
