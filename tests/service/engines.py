"""What the tests of engines and of loading share: real models, and providers that are not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.card import MODEL_FILES, Gate, ModelCard, ModelFile, Precision, sha256
from service.engine import Engine
from service.loading import load_engine
from service.providers import (
    Compute,
    PrecisionChoice,
    ProviderChoice,
    ProviderName,
    ProviderUnavailable,
    Session,
    open_session,
)
from service.tuning import Cache

GATE = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=0.002, limit=0.01)


def with_file(folder: Path, precision: Precision, gate: Gate | None) -> ModelCard:
    """The card of a folder, with a file more."""
    path = folder / MODEL_FILES[precision]
    entry = ModelFile(file=path.name, sha256=sha256(path), bytes=path.stat().st_size, gate=gate)
    card = ModelCard.read(folder)
    return card.model_copy(update={"files": card.files | {precision: entry}})


def load(
    folder: Path,
    provider: ProviderChoice = "cpu",
    precision: PrecisionChoice = "auto",
    *,
    card: ModelCard | None = None,
    threads: int = 2,
    lanes: int = 1,
    max_batch: int | None = 3,
    cache: Cache | None = None,
) -> Engine:
    return load_engine(
        folder,
        card or ModelCard.read(folder),
        provider=provider,
        precision=precision,
        threads=threads,
        lanes=lanes,
        max_batch=max_batch,
        cache=cache,
    )


def load_or_skip(folder: Path, provider: ProviderName, precision: Compute, *, lanes: int = 1) -> Engine:
    try:
        return load(folder, provider, precision, lanes=lanes)
    except ProviderUnavailable as error:
        pytest.skip(str(error))


class Opened:
    """`open_session` that gives a session on the CPU for every provider, and remembers what it was asked for."""

    def __init__(self, wrap: Callable[[Session, int], Session] = lambda session, streams: session) -> None:
        self.calls: list[tuple[str, str, str, int, int]] = []
        self.batches: list[tuple[int | None, int]] = []  # with the number of the GPU
        self._wrap = wrap

    def __call__(
        self,
        model: Path,
        provider: ProviderName,
        precision: Compute = "fp32",
        *,
        threads: int,
        streams: int = 1,
        batch: int | None = None,
        gpu: int = 0,
    ) -> Session:
        self.calls.append((model.name, provider, precision, threads, streams))
        self.batches.append((batch, gpu))
        session = open_session(model, "cpu", threads=threads, batch=batch)
        return self._wrap(session._replace(provider=provider, compute=precision), streams)


class Wrong:
    """An ONNX Runtime session that computes something else."""

    def __init__(self, session: Session) -> None:
        self._session = session.ort

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [-array for array in self._session.run(outputs, inputs)]

    def get_inputs(self) -> object:
        return self._session.get_inputs()


def wrong(session: Session) -> Session:
    return session._replace(ort=Wrong(session))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
