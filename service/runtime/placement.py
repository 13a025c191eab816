"""A published model and its share of the machine: the batch sizes to run there, and the sessions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from service.runtime.choices import FILES, Precision, ProviderName
from service.runtime.engine import DynamicEngine, Engine, EngineInfo
from service.runtime.gpu.decoding import GpuDecoder
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import MODEL_FILES
from service.runtime.providers import Session, check_graph, open_session
from service.runtime.static_engine import StaticEngine

# The largest batch that tuning tries on a CPU: larger ones gained nothing and take long to measure.
LARGEST = 16

# The batch sizes of a GPU. Few, since each has a session of its own; far apart, since a GPU computes a few images in
# little more time than one.
GPU_SIZES: tuple[int, ...] = (1, 8, 32, 64)

# Lanes on a GPU: one batch computes while the next is copied to it.
GPU_LANES = 2


class Candidate(NamedTuple):
    """A provider and a precision that may compute a model."""

    provider: ProviderName
    precision: Precision


class Placement(NamedTuple):
    """A published model and its share of the machine.

    Attributes:
        threads: CPU cores that inference may use.
        lanes: how many batches may run at once, at most.
        max_batch: the largest batch; None if it is to be measured.
        gpu: the number of the GPU, for CUDA.
        gpu_decoding: whether the engine takes JPEGs, too, and decodes them on its GPU.
    """

    folder: Path
    card: ModelCard
    threads: int
    lanes: int
    max_batch: int | None
    gpu: int
    gpu_decoding: bool = False

    def open(self, info: EngineInfo) -> Engine:
        """Opens an engine as `info` describes it, not warmed up yet. Raises ProviderUnavailable."""
        provider, precision, lanes = info.provider, info.precision, info.lanes
        path = self.folder / MODEL_FILES[FILES[precision]]
        if provider == "cuda":

            def open_size(size: int) -> Session:
                return self._checked(
                    open_session(path, "cuda", precision, threads=self.threads, batch=size, gpu=self.gpu)
                )

            new_decoder = functools.partial(GpuDecoder, self.gpu, self.card.preprocessing)
            return StaticEngine(info, open_size, new_decoder if info.decodes else None, self.gpu)
        wide = self._checked(open_session(path, provider, precision, threads=self.threads))
        if lanes == 1:
            return DynamicEngine(info, wide)
        # A batch on all cores answers a lone request soonest. Under load, a batch on each core can do more: no core
        # ever waits for another. A session divides the cores when it is created, so there are two sessions.
        narrow = open_session(path, provider, precision, threads=self.threads, lanes=lanes)
        return DynamicEngine(info, wide, narrow)

    def _checked(self, session: Session) -> Session:
        """Raises ProviderUnavailable if the file is not the one that the card describes."""
        check_graph(session.ort, self.card.preprocessing.shape, self.card.architecture.num_classes)
        return session

    def most_lanes(self, provider: ProviderName) -> int:
        """How many lanes a provider can use."""
        return min(self.lanes, GPU_LANES) if provider == "cuda" else self.lanes

    def sizes_to_measure(self, provider: ProviderName) -> tuple[int, ...]:
        """The batch sizes that tuning tries, ascending from 1."""
        if self.max_batch is not None:
            return tuple(dict.fromkeys((1, self.max_batch)))
        return GPU_SIZES if provider == "cuda" else powers_of_two(LARGEST)

    def default_sizes(self, provider: ProviderName) -> tuple[int, ...]:
        """The batch sizes to warm up if none were measured, ascending."""
        if self.max_batch is None:
            return GPU_SIZES if provider == "cuda" else (1,)
        if provider == "cuda":
            return (*(size for size in GPU_SIZES if size < self.max_batch), self.max_batch)
        return powers_of_two(self.max_batch)


def powers_of_two(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `largest`, and `largest` itself: few shapes to warm up, and they add up to any number."""
    sizes = [1]
    while 2 * sizes[-1] <= largest:
        sizes.append(2 * sizes[-1])
    return (*sizes, largest) if sizes[-1] != largest else tuple(sizes)
