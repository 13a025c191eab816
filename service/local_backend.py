"""The backend that computes in this process: engines behind batchers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from service.backend import Failed, Ready, Work
from service.local_runner import EngineBroken, LaneFailed, LocalRunner
from service.metrics import Metrics
from service.model_repository import Model, Repository
from service.published import Listing, list_published
from service.runtime.engine import Engine, EngineInfo
from service.runtime.loading import load_engine
from service.runtime.machine import return_freed_memory
from service.runtime.model_folder import CardError, verify_digests
from service.runtime.providers import ProviderUnavailable
from service.runtime.self_test import SelfTestFailed
from service.runtime.tuning import Cache
from service.settings import Settings

if TYPE_CHECKING:
    from service.tracing.spans import Spans

log = logging.getLogger(__name__)


def open_engine(model: Model, settings: Settings) -> Engine:
    """Loads a published model as the settings say. Raises as `load_engine` does."""
    return load_engine(
        model.path,
        model.card,
        provider=settings.provider,
        precision=settings.precision,
        threads=settings.engine_threads,
        lanes=settings.engine_threads,
        max_batch=settings.max_batch,
        cache=Cache(settings.cache_dir),
        gpu=settings.gpu,
        gpu_decoding=settings.gpu_decoding,
    )


def _labels(model: Model, info: EngineInfo) -> dict[str, str]:
    """Those of `resnet_model_info`."""
    return {
        "model": model.name,
        "version": str(model.card.version),
        "depth": str(model.depth),
        "variant": model.card.architecture.variant,
        "provider": info.provider,
        "compute": info.precision,
    }


def _log_error(job: Future[Ready | Failed]) -> None:
    if not job.cancelled() and (error := job.exception()):
        log.error("loading ended unexpectedly during the shutdown", exc_info=error)


class LocalBackend:
    """Loads models and computes them in this process. A `Backend`.

    At the start, as many are loaded at a time as there are cores; later one after the other, beside what is served.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
        open_engine: Callable[[Model, Settings], Engine] = open_engine,
        unfit: Callable[[Model], str | None] = lambda model: None,
        spans: Spans | None = None,
    ) -> None:
        """
        Args:
            spans: where batches are traced.
            unfit: why a model cannot be served here; None if it can.
            on_broken: called on a thread, once for each model whose engine fails again and again.
            open_engine: called on a thread to load a model.
        """
        self._open_engine = open_engine
        self._settings = settings
        self._metrics = metrics
        self._on_broken = on_broken
        self._loader = ThreadPoolExecutor(settings.engine_threads, thread_name_prefix="loading")
        self._unfit = unfit
        self._spans = spans
        self._runners: dict[Model, LocalRunner] = {}
        self._closed = False
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def load(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        async for outcome in self._load_all(repository, self._settings.engine_threads):
            yield outcome

    async def _load_all(self, repository: Repository, at_once: int) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        """As `load`, of versions whose cards have been read. `at_once`: models that are loaded at the same time."""
        loading: dict[asyncio.Task[Ready | Failed], Model] = {}
        try:
            while True:
                for model in repository.to_load():
                    if model not in loading.values() and len(loading) < at_once:
                        loading[asyncio.create_task(self._load_on_thread(model))] = model
                if not loading:
                    return
                done, _ = await asyncio.wait(loading, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield loading.pop(task), task.result()
                    repository.read_cards()
        finally:
            for task in loading:
                task.cancel()

    async def changes(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed] | Listing]:
        """Looks at the model folder every `poll_interval` seconds, and whenever `reload` is called."""
        self._loop = asyncio.get_running_loop()
        fault = ""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._settings.poll_interval or None)
            if self._asked.is_set():
                self._asked.clear()
                repository.retry()
            try:
                listing = await asyncio.to_thread(list_published, self._settings)
            except (CardError, OSError, RuntimeError) as error:  # no descriptor or no thread is left, say
                # Everything that is served goes on being served.
                if str(error) != fault:
                    log.error("the model folder cannot be followed: %s", error)
                fault = str(error)
                continue
            fault = ""
            repository.take(listing)
            repository.read_cards()
            yield repository.listing
            async for outcome in self._load_all(repository, at_once=1):
                yield outcome

    def reload(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._asked.set)
        else:
            self._asked.set()  # for when loading has ended

    async def unload(self, model: Model) -> None:
        runner = self._runners[model]
        await asyncio.to_thread(runner.close)  # under the watchdog's eyes
        del self._runners[model]
        self._metrics.model_is_gone(**_labels(model, runner.info))
        del runner
        return_freed_memory()

    async def _load_on_thread(self, model: Model) -> Ready | Failed:
        job = self._loader.submit(self._load, model)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(_log_error)  # the thread goes on, and nobody waits for its outcome
            raise
        except Exception as error:
            log.exception("%s %d could not be loaded", model.name, model.version)
            return Failed(f"loading it failed unexpectedly: {error!r}")

    def work(self) -> list[Work]:
        return [runner.work for runner in list(self._runners.values())]

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._closed = True
        self._loader.shutdown(wait=False, cancel_futures=True)  # measuring a model may take minutes
        for runner in list(self._runners.values()):
            runner.close()

    def _load(self, model: Model) -> Ready | Failed:
        if reason := self._unfit(model):
            return self._failed(model, reason)
        try:
            verify_digests(model.path, model.card)
            engine = self._open_engine(model, self._settings)
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            return self._failed(model, str(error))
        finally:
            return_freed_memory()
        try:
            runner = LocalRunner(
                model,
                engine,
                self._metrics,
                max_wait=self._settings.max_wait_ms / 1000,
                spans=self._spans,
                on_broken=self._break,
            )
        except LaneFailed as error:  # no memory left on the GPU, say
            return self._failed(model, f"its engine does not run on the threads of its lanes: {error}", error.__cause__)
        self._runners[model] = runner
        if self._closed:  # too late: nobody else closes it
            runner.close()
        self._metrics.model_is_ready(**_labels(model, engine.info))
        return Ready(engine.info, runner)

    def _failed(self, model: Model, reason: str, cause: BaseException | None = None) -> Failed:
        """`cause`: whose traceback tells more than the reason."""
        log.error("%s %d is not served: %s", model.name, model.card.version, reason, exc_info=cause)
        return Failed(reason)

    def _break(self, error: EngineBroken) -> None:
        log.error("%s", error)
        self._on_broken(error)
