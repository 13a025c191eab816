"""One published model in ONNX Runtime sessions: proven, then `infer`. Which sessions those are, `loading` decides.

Knows no HTTP and no queue. `model_export` uses the same class for its parity gate and for evaluation, so what is
measured there is what serves here.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from service.card import Precision, SelfTest
from service.providers import Compute, ProviderName, Session
from service.tuning import Tuned, powers_of_two

# The ONNX file's interface, the same for every model.
INPUT = "image"  # uint8 (N, 3, crop, crop), RGB
Output = Literal["logits", "embedding", "feature_map"]
OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "feature_map")

# Images of a batch: uint8 `(N, 3, crop, crop)`, or N arrays `(3, crop, crop)`.
Images = np.ndarray | Sequence[np.ndarray]

# Unit roundoff of each precision (half the distance from 1 to the next number), relative to float32's.
ROUNDOFF: dict[Compute, float] = {"fp32": 1, "fp16": 2**13, "bf16": 2**16}

# What the self-test allows, in multiples of what PyTorch's float32 rounding and a precision's roundoff predict.
# Rounding the inputs of every convolution moves the logits by 0.01 to 0.3 times that. float32 is given room for
# algorithms that add up in another order (Winograd's); TF32, with the roundoff of fp16, is still 8 to 25 times further
# away.
MARGIN: dict[Compute, float] = {"fp32": 64, "fp16": 2, "bf16": 1}

# ... and at least and at most, relative to the logits' range. A wrong kernel is off by the range itself.
LEAST: dict[Compute, float] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}
MOST = 0.3

# Where nothing is predicted: the steps of int8 are chosen layer by layer, and older models do not tell their rounding.
CONSTANT: dict[Compute, float] = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.01, "int8": 0.2}

# The file that each precision is computed from.
FILES: dict[Compute, Precision] = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}

# The largest batch that tuning tries on a CPU: larger ones gained nothing and take long.
LARGEST = 16

# The batch sizes of a GPU. Few, since each has a session of its own; far apart, since a GPU computes a few images in
# little more time than one.
GPU_SIZES: tuple[int, ...] = (1, 8, 32, 64)

# Batches at once on a GPU: one computes while the next is copied to it.
STAGES = 2

# Runs of a batch size of which the fastest says how long it takes.
TIMED_RUNS = 3


class SelfTestFailed(Exception):
    """The session's answers are not those stored at export."""


def tolerance(compute: Compute, rounding: float | None) -> float:
    """How far the self-test lets the logits be from the exact ones, relative to their range.

    Args:
        rounding: as in `SelfTest`.
    """
    if rounding is None or compute == "int8":
        return CONSTANT[compute]
    predicted = rounding * ROUNDOFF[compute]
    return min(max(LEAST[compute], MARGIN[compute] * predicted), MOST)


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


class Engine(ABC):
    """A published model, ready to run. Its attributes are those of `EngineInfo`."""

    def __init__(self, provider: ProviderName, compute: Compute, lanes: int) -> None:
        self.provider = provider
        self.compute = compute
        self.lanes = lanes
        self.refused: dict[str, str] = {}
        self.batch_sizes: tuple[int, ...] = ()
        self.tuned: Tuned | None = None

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(self.provider, self.compute, self.lanes, self.refused, self.batch_sizes, self.tuned)

    @abstractmethod
    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        """Runs one batch. Up to `lanes` threads may call it at once.

        Args:
            images: uint8 `(N, 3, crop, crop)`, RGB, as `imaging.decode` makes them.
            outputs: `logits` float32 `(N, classes)`, `embedding` `(N, C)`, `feature_map` `(N, C, h, w)`.
            alone: whether no other batch runs meanwhile, so that this one may have all cores.
        """

    @abstractmethod
    def sizes(self, largest: int | None = None) -> tuple[int, ...]:
        """The batch sizes up to `largest` that are worth having, ascending; unset, those worth measuring."""

    @property
    @abstractmethod
    def fewest_sizes(self) -> tuple[int, ...]:
        """The batch sizes that have to be warmed up for every batch to be right, if not soon."""

    @abstractmethod
    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Runs every batch size once, so that no request pays for compiling its shape."""

    @abstractmethod
    def warm_up_thread(self) -> None:
        """Makes whatever the calling thread needs of its own, so that no request pays for it."""

    @property
    @abstractmethod
    def seconds(self) -> dict[int, float] | None:
        """How long each batch size takes, where batches in between are padded; None where they run as they are."""

    @abstractmethod
    def _answers(self, images: np.ndarray) -> list[np.ndarray]:
        """The logits `(N, classes)` by each way that a batch may take."""

    @abstractmethod
    def _blank(self, size: int) -> np.ndarray:
        """A batch of black images."""

    def blank(self, size: int, *, alone: bool) -> None:
        """Runs a batch of black images, to be timed."""
        self.infer(self._blank(size), alone=alone)

    def self_test(self, stored: SelfTest) -> float:
        """Compares the answers to the stored inputs with the exact ones.

        Returns:
            The largest difference of a logit, relative to the range of the stored logits.

        Raises:
            SelfTestFailed: it is larger than this engine's precision explains.
        """
        logits = np.stack(self._answers(stored.images))
        difference = float(np.abs(logits - stored.logits).max() / np.ptp(stored.logits))
        allowed = tolerance(self.compute, stored.rounding)
        if difference <= allowed:  # false also when it is not a number
            return difference
        fault = (
            f"{self.provider} computes wrong answers: the logits differ by {difference:.3%} of their range from those "
            f"stored at export; {self.compute} explains {allowed:.3%}"
        )
        if (self.provider, self.compute) == ("cuda", "fp32") and difference <= tolerance("bf16", stored.rounding):
            fault += ". Where cuDNN has no fp32 for a convolution, ONNX Runtime takes TF32: serve this model in fp16"
        raise SelfTestFailed(fault)


class DynamicEngine(Engine):
    """One or two sessions that run batches of any size."""

    def __init__(self, wide: Session, narrow: Session | None = None, *, lanes: int = 1) -> None:
        """
        Args:
            wide: computes a batch on all cores.
            narrow: computes `lanes` batches at once, each on its share of the cores; None for one lane.
        """
        super().__init__(wide.provider, wide.compute, lanes)
        self._wide = wide.ort
        self._narrow = narrow.ort if narrow else wide.ort

    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        session = self._wide if alone else self._narrow
        batch = images if isinstance(images, np.ndarray) else np.stack(images)
        return dict(zip(outputs, session.run(list(outputs), {INPUT: batch}), strict=True))

    def sizes(self, largest: int | None = None) -> tuple[int, ...]:
        return powers_of_two(largest or LARGEST)

    @property
    def fewest_sizes(self) -> tuple[int, ...]:
        return (1,)

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        for size in batch_sizes:
            self._answers(self._blank(size))
        self.batch_sizes = tuple(batch_sizes)

    def warm_up_thread(self) -> None:
        """Nothing: threads share everything."""

    @property
    def seconds(self) -> None:
        return None

    def _answers(self, images: np.ndarray) -> list[np.ndarray]:
        ways = (True,) if self._wide is self._narrow else (True, False)
        return [self.infer(images, alone=alone)["logits"] for alone in ways]

    def _blank(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._wide.get_inputs()[0].shape[1:]), np.uint8)


class StaticEngine(Engine):
    """A session for each of few batch sizes; batches in between are padded up to the next size.

    For CUDA: a convolution keeps the cuDNN plan of one input shape, so that each change of the batch size builds all
    plans anew, which takes as long as many batches (onnxruntime issue #23006).

    Args:
        open_size: opens the session that runs one batch size.
    """

    def __init__(
        self, open_size: Callable[[int], Session], provider: ProviderName, compute: Compute, *, lanes: int = 1
    ) -> None:
        super().__init__(provider, compute, lanes)
        self._open = open_size
        self._padded = GPU_SIZES  # the sizes that batches are padded to, ascending; once warmed up, no others
        self._sessions: dict[int, Session] = {}
        self._opening = threading.Lock()
        self._seconds: dict[int, float] = {}
        self._buffers = threading.local()  # a thread runs one batch at a time

    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        largest = self._padded[-1]
        parts = []
        for start in range(0, len(images), largest):
            part = images[start : start + largest]
            size = next(size for size in self._padded if size >= len(part))
            parts.append(self._run(size, part, outputs))
        return dict(zip(outputs, map(np.concatenate, zip(*parts, strict=True)), strict=True))

    def sizes(self, largest: int | None = None) -> tuple[int, ...]:
        if largest is None:
            return GPU_SIZES
        return (*(size for size in GPU_SIZES if size < largest), largest)

    @property
    def fewest_sizes(self) -> tuple[int, ...]:
        return GPU_SIZES

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Opens the sessions too, and times them."""
        self.batch_sizes = tuple(batch_sizes)
        self._padded = self.batch_sizes
        for size in batch_sizes:
            blank = self._blank(size)
            self._run(size, blank, ("logits",))
            took = []
            for _ in range(TIMED_RUNS):
                started = time.perf_counter()
                self._run(size, blank, ("logits",))
                took.append(time.perf_counter() - started)
            self._seconds[size] = min(took)

    def warm_up_thread(self) -> None:
        """ONNX Runtime makes a CUDA stream, and handles of cuDNN and cuBLAS, for each session on each thread."""
        for size in self.batch_sizes:
            self._run(size, self._blank(size), ("logits",))

    @property
    def seconds(self) -> dict[int, float]:
        if self.tuned and set(self.batch_sizes) <= set(self.tuned.tuning.best.images_per_second):
            # with all lanes busy, as under the load that the split is made for
            rates = self.tuned.tuning.best.images_per_second
            return {size: size / rates[size] for size in self.batch_sizes}
        return {size: self._seconds[size] for size in self.batch_sizes}

    def _answers(self, images: np.ndarray) -> list[np.ndarray]:
        found = []
        for size in self.batch_sizes:
            parts = [images[start : start + size] for start in range(0, len(images), size)]
            found.append(np.concatenate([self._run(size, part, ("logits",))[0] for part in parts]))
        return found

    def _run(self, size: int, images: Images, outputs: Sequence[Output]) -> list[np.ndarray]:
        """Up to `size` images in the session of that size; what was padded is dropped from the outputs."""
        session = self._session(size).ort
        buffers: dict[int, np.ndarray] = self._buffers.__dict__.setdefault("by_size", {})
        if size not in buffers:
            buffers[size] = self._blank(size)
        np.stack(list(images), out=buffers[size][: len(images)])
        return [output[: len(images)] for output in session.run(list(outputs), {INPUT: buffers[size]})]

    def _blank(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._session(size).ort.get_inputs()[0].shape[1:]), np.uint8)

    def _session(self, size: int) -> Session:
        with self._opening:
            if size not in self._sessions:
                self._sessions[size] = self._open(size)
            return self._sessions[size]
