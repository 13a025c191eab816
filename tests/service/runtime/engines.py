"""Helpers for tests of engines and of loading: real models, and stand-ins for sessions and providers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.runtime.choices import FilePrecision, Precision, PrecisionChoice, ProviderChoice, ProviderName
from service.runtime.engine import Engine
from service.runtime.loading import load_engine
from service.runtime.model_card import Gate, ModelCard, ModelFile
from service.runtime.model_folder import MODEL_FILES, read_card, sha256
from service.runtime.providers import ProviderUnavailable, Session, open_session
from service.runtime.tuning import Cache

GATE = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=0.002, limit=0.01)


def with_file(folder: Path, precision: FilePrecision, gate: Gate | None) -> ModelCard:
    """The card of a folder, with an entry for one more of its files."""
    path = folder / MODEL_FILES[precision]
    entry = ModelFile(file=path.name, sha256=sha256(path), bytes=path.stat().st_size, gate=gate)
    card = read_card(folder)
    return card.model_copy(update={"files": card.files | {precision: entry}})


def with_bf16(card: ModelCard) -> ModelCard:
    """The card of a model whose bf16 has passed its gate."""
    fp32 = card.files["fp32"].model_copy(update={"bf16": GATE})
    return card.model_copy(update={"files": card.files | {"fp32": fp32}})


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
    measures: bool = True,
) -> Engine:
    return load_engine(
        folder,
        card or read_card(folder),
        provider=provider,
        precision=precision,
        threads=threads,
        lanes=lanes,
        max_batch=max_batch,
        cache=cache,
        measures=measures,
    )


def load_or_skip(folder: Path, provider: ProviderName, precision: Precision, *, lanes: int = 1) -> Engine:
    try:
        return load(folder, provider, precision, lanes=lanes)
    except ProviderUnavailable as error:
        pytest.skip(str(error))


def unchanged(session: Session, lanes: int) -> Session:
    return session


class Opened:
    """Stands in for `open_session`: opens CPU sessions for every provider, and records the arguments.

    Args:
        wrap: replaces each session; gets the session and its number of lanes.
    """

    def __init__(self, wrap: Callable[[Session, int], Session] = unchanged) -> None:
        self.calls: list[tuple[str, ProviderName, Precision]] = []  # with the file's name
        self.cores: list[tuple[int, int]] = []  # threads, lanes
        self.batches: list[tuple[int | None, int]] = []  # batch size, number of the GPU
        self._wrap = wrap

    def __call__(
        self,
        model: Path,
        provider: ProviderName,
        precision: Precision = "fp32",
        *,
        threads: int,
        lanes: int = 1,
        batch: int | None = None,
        gpu: int = 0,
    ) -> Session:
        self.calls.append((model.name, provider, precision))
        self.cores.append((threads, lanes))
        self.batches.append((batch, gpu))
        session = open_session(model, "cpu", threads=threads, batch=batch)
        return self._wrap(session._replace(provider=provider, precision=precision), lanes)


class Recorded:
    """An ONNX Runtime session that records the size and the thread of each batch."""

    def __init__(self, session: Session) -> None:
        self._session = session.ort
        self.batches: list[tuple[int, str]] = []

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.batches.append((len(inputs["image"]), threading.current_thread().name))
        return self._session.run(outputs, inputs)

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()


class Wrong(Recorded):
    """An ONNX Runtime session that computes something else."""

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [-array for array in super().run(outputs, inputs)]


def wrong(session: Session) -> Session:
    return session._replace(ort=Wrong(session))


def pictures(count: int) -> np.ndarray:
    """Random images of CIFAR's size, uint8 `(count, 3, 32, 32)`."""
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
