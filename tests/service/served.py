"""Pipelines over a model folder in this process, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from service.admission import Memory, Permit
from service.answers import Classified
from service.backend import Runner
from service.deadline import Deadline
from service.decoders import Decoders
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend, open_engine
from service.metrics import Metrics
from service.model_repository import Model, open_repository
from service.pipeline import Pipeline
from service.runtime.engine import Engine
from service.runtime.faults import Fault
from service.runtime.graph import Output
from service.settings import Settings

T = TypeVar("T")


class Served:
    """What `create_app` wires together, for tests.

    Attributes:
        engines: of the models that are loaded, by name.
        fatal: what `on_fatal` was told.
    """

    def __init__(self, models_dir: Path, **changes: object) -> None:
        self.settings = Settings.model_validate(
            {"models_dir": models_dir, "provider": "cpu", "max_batch": 8, **changes}
        )
        self.metrics = Metrics()
        self.engines: dict[str, Engine] = {}
        self.runners: dict[str, Runner] = {}
        self.fatal: list[Exception] = []
        self.backend = LocalBackend(self.settings, self.metrics, self._broken, self._open_engine)
        self.memory = Memory(self.settings.memory.requests, self.metrics)
        self.decoders = Decoders(
            self.settings.worker_decode_threads, self.settings.memory.large_images, self.settings.target_wait_ms / 1000
        )
        self.repository = open_repository(self.settings)
        self.lifecycle = Lifecycle(
            self.repository, self.backend, self._activate, lambda pipeline: pipeline.room.vacated(), self.fatal.append
        )

    def load(self) -> Served:
        asyncio.run(self.lifecycle.load())
        return self

    def model(self, name: str) -> Model:
        return self.repository.get(name)

    def pipeline(self, name: str) -> Pipeline:
        return self.lifecycle.active(self.model(name))

    async def classify(
        self,
        name: str,
        images: Sequence[bytes | np.ndarray],
        top_k: int,
        deadline: Deadline | None = None,
        outputs: Sequence[Output] = (),
    ) -> list[Classified | Fault]:
        with Permit(self.memory) as permit:
            return await self.pipeline(name).classify(permit, images, top_k, deadline or Deadline.after(60), outputs)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def close(self) -> None:
        self.decoders.shutdown()
        asyncio.run(self.backend.close())

    def _activate(self, model: Model, runner: Runner) -> Pipeline:
        self.runners[model.name] = runner
        return Pipeline(model, runner, self.decoders, self.settings, self.metrics)

    def _open_engine(self, model: Model, settings: Settings) -> Engine:
        self.engines[model.name] = open_engine(model, settings)
        return self.engines[model.name]

    def _broken(self, error: Exception) -> None:
        self.lifecycle.give_up(error)
