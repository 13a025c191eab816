"""Engines: published models in ONNX Runtime sessions, warmed up, proven and ready to `infer`.

`placement` opens the sessions. `model_export` uses the same classes for its gates and for evaluation: what is measured
there is what serves here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.runtime.choices import Precision, ProviderName
from service.runtime.graph import INPUT, Output
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.providers import Session
from service.runtime.self_test import SelfTest, largest_error
from service.runtime.tuning import Tuned

# One image: uint8 `(channels, height, width)`, or for an engine that decodes, a JPEG.
Image = np.ndarray | EncodedJpeg

# A batch: uint8 `(N, channels, height, width)`, or N images.
Images = np.ndarray | Sequence[Image]


class EngineInfo(NamedTuple):
    """Engine metadata: picklable, for `/models` and for other processes.

    Attributes:
        provider: the execution provider in use.
        precision: of the arithmetic.
        lanes: how many batches may run at once; more would gain nothing.
        batch_sizes: the sizes that are warmed up, ascending.
        refused: for `auto`, why faster candidates were not taken, by provider or by provider and precision.
        tuned: the measurements behind the choice; None if nothing was measured.
        decodes: whether it also takes JPEGs.
    """

    provider: ProviderName
    precision: Precision
    lanes: int = 1
    batch_sizes: tuple[int, ...] = (1,)
    refused: Mapping[str, str] = {}
    tuned: Tuned | None = None
    decodes: bool = False


def array(image: Image) -> np.ndarray:
    """An image that has been decoded. Raises TypeError for one that has not."""
    if isinstance(image, EncodedJpeg):
        raise TypeError("this engine takes decoded images only")
    return image


class Engine(ABC):
    """A published model, ready to run."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info

    @abstractmethod
    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        """Runs one batch. Up to `info.lanes` threads may call it at once.

        Args:
            images: uint8 `(N, channels, height, width)`, as `decoding.decode` makes them.
            outputs: `logits` float32 `(N, classes)`, `embedding` `(N, C)`, `feature_map` `(N, C, h, w)`.
            alone: whether no other batch runs at the same time, so that this one may use all cores.

        Returns:
            The outputs by name. Those of a JPEG that the engine could not decode are NaN.
        """

    @abstractmethod
    def warm_up(self) -> None:
        """Runs every batch size once, so that no request pays for compiling its shape."""

    @abstractmethod
    def prepare_thread(self) -> None:
        """Creates the calling thread's own resources, so that no request pays for them."""

    @property
    @abstractmethod
    def seconds(self) -> dict[int, float] | None:
        """Seconds that each batch size takes, if batches are padded up to these sizes; None if any size runs as is."""

    @abstractmethod
    def logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        """The logits `(N, classes)` from every path that a batch may take through the sessions."""

    @abstractmethod
    def _black(self, size: int) -> np.ndarray:
        """A batch of black images."""

    def run_black(self, size: int, *, alone: bool) -> None:
        """Runs a batch of black images, to be timed."""
        self.infer(self._black(size), alone=alone)

    def self_test(self, stored: SelfTest) -> float:
        """The largest error of a logit, relative to the logits' range. Raises SelfTestFailed if it is too large."""
        return largest_error(stored, self.logits_by_path(stored.images), self.info.provider, self.info.precision)


class DynamicEngine(Engine):
    """One or two sessions that run batches of any size."""

    def __init__(self, info: EngineInfo, wide: Session, narrow: Session | None = None) -> None:
        """
        Args:
            wide: computes one batch on all cores.
            narrow: computes `info.lanes` batches at once, each on its share of the cores; None for one lane.
        """
        super().__init__(info)
        self._wide = wide.ort
        self._narrow = narrow.ort if narrow else wide.ort

    @classmethod
    def of(cls, session: Session) -> DynamicEngine:
        """One lane on one session."""
        return cls(EngineInfo(session.provider, session.precision), session)

    def infer(
        self, images: Images, outputs: Sequence[Output] = ("logits",), *, alone: bool = True
    ) -> dict[Output, np.ndarray]:
        session = self._wide if alone else self._narrow
        batch = images if isinstance(images, np.ndarray) else np.stack([array(image) for image in images])
        return dict(zip(outputs, session.run(list(outputs), {INPUT: batch}), strict=True))

    def warm_up(self) -> None:
        for size in self.info.batch_sizes:
            self.logits_by_path(self._black(size))

    def prepare_thread(self) -> None:
        """Does nothing: threads share everything."""

    @property
    def seconds(self) -> None:
        return None

    def logits_by_path(self, images: np.ndarray) -> list[np.ndarray]:
        paths = (True,) if self._wide is self._narrow else (True, False)
        return [self.infer(images, alone=alone)["logits"] for alone in paths]

    def _black(self, size: int) -> np.ndarray:
        return np.zeros((size, *self._wide.get_inputs()[0].shape[1:]), np.uint8)
