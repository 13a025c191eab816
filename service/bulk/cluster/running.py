"""One run on a Ray cluster, from places to rows.

    places ── tasks ──► decoded images ── actors, each with an engine ──► rows, in the order in which they are computed

Ray Data moves the blocks, holds back what is ahead of the engines, and computes again what a lost machine has taken
with it. The rows come to this process: it alone writes them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from service.bulk.cluster import places
from service.bulk.cluster.capacity import DECODING_CPUS, Engines, Share
from service.bulk.cluster.stages import Decoding, Engine
from service.bulk.done import Done
from service.bulk.inputs import InputError, Inputs
from service.bulk.local import Wanted, looked_up
from service.bulk.rows import Row
from service.bulk.stream import Ended, Unusable
from service.settings import Settings

T = TypeVar("T")

CALLS = 2  # of an engine at once: while one batch of blocks ends, the next keeps it busy
# Of a worker that decodes: 0 for any number. An option that the engines do not have keeps tasks apart from them: Ray
# would run both stages in the actors otherwise, and a block would be decoded while its engine waits.
MOST_TASKS = 0
# Deaths of workers while they decoded a block, after which it is decoded `alone`: Ray would repeat it without end. One
# death may be that of a machine, two are the block's.
ALONE_FROM = 2
REACH_S = 10.0  # until an address counts as one that nobody answers at


class Model(NamedTuple):
    """What the engines load.

    Attributes:
        given: settings that the run was given, with absolute paths; the others are those of each machine.
    """

    wanted: Wanted
    given: dict[str, Any]
    labels: str | None
    top_k: int | None


def found(settings: Settings, model: str | None, depth: int | None, labels: str | None, top_k: int | None) -> Model:
    """The model, with its version: every engine loads the same. Arguments as of `local.opened`.

    Raises:
        Unusable: there is no such model, or it does not have such classes, or a setting has no effect on a cluster.
    """
    if settings.gpu_decoding:
        raise Unusable("gpu_decoding has no effect with --ray, where processors decode: unset it")
    given = {**settings.model_dump(exclude_unset=True), "models_dir": settings.models_dir}
    # Workers have other working folders.
    given = {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}
    return Model(looked_up(settings, model, depth, labels, top_k), given, labels, top_k)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """
    Args:
        address: `auto`, `local`, or HOST:PORT, as `ray.init` takes it.

    Raises:
        Unusable: there is no cluster.
    """
    if ":" in address:
        _reach(address)
    try:
        # Keeps the workers' logs to Ray's files: standard error is for the progress of the run.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _unusable(address, error) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors end the run, which tells them
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises Unusable if nothing accepts connections there: Ray itself would go on trying for ten minutes and more."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unusable(address, error) from None


def _unusable(address: str, error: Exception) -> Unusable:
    return Unusable(
        f"no Ray cluster answers at {address}: {error}; start one (`ray start --head`), set RAY_AUTH_TOKEN to its "
        "token, or give --ray local"
    )


class ClusterStream:
    """As `Stream`, on the cluster that is connected. `rows` may be iterated once."""

    def __init__(
        self,
        inputs: Inputs,
        urls: Sequence[str],
        column: str | None,
        model: Model,
        engines: Engines,
        done: Done,
        tell: Callable[[str], None],
    ) -> None:
        """
        Args:
            inputs, urls, column, done: as of `places.blocks`.
            tell: is given what the run waits for.
        """
        self._inputs = inputs
        self._urls = urls
        self._column = column
        self._model = model
        self._engines = engines
        self._done = done
        self._tell = tell
        self._stopping = asyncio.Event()
        self._listed: concurrent.futures.Future[int] = concurrent.futures.Future()

    def stop(self) -> None:
        """Ends the rows now. What is under way is lost. On the event loop."""
        self._stopping.set()

    def count(self) -> int:
        """How many images there are, with those of earlier runs. On a thread: waits until all are listed."""
        return self._listed.result()

    async def rows(self) -> AsyncGenerator[Row, None]:
        """A row for each place.

        Raises:
            InputError: an argument cannot be used.
            Ended: the cluster cannot go on, or an engine.
        """
        batches = self._batches()
        stopping = asyncio.ensure_future(self._stopping.wait())
        taking: asyncio.Future[Any] | None = None
        try:
            while True:
                taking = _on_a_daemon(lambda: next(batches, None))
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() or (batch := await taking) is None:
                    return
                for row in batch.to_pylist():
                    yield Row(row["name"], row["model"], row["version"], json.loads(row["entry"]))
        except (RayError, ExecutionTimeoutError) as error:
            raise Ended(_told(error)) from None
        finally:
            stopping.cancel()
            if taking:
                taking.cancel()  # what its thread raises from now on interests nobody

    def _batches(self) -> Iterator[pyarrow.Table]:
        blocks = []
        for block in places.blocks(self._inputs, self._urls, self._column, self._done):
            if self._stopping.is_set():
                return
            blocks.append(block)
        self._listed.set_result(self._done.rows + sum(block.num_rows for block in blocks))
        if not blocks:
            return
        share = Share.of(self._engines)
        pool = self._pool(share)
        share.wait_for_room(self._tell, self._stopping.is_set)
        if self._stopping.is_set():
            return
        settings = self._model.wanted.settings
        card = self._model.wanted.repository.get(self._model.wanted.reference).card
        decoding = Decoding(
            card.preprocessing,
            self._column,
            settings.max_image_bytes,
            settings.max_pixels,
            settings.scaled_decoding,
            settings.memory.large_images,
        )
        decoded = ray.data.from_arrow(blocks).map_batches(
            _decoded,
            fn_args=(decoding,),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=DECODING_CPUS,
            max_calls=MOST_TASKS,
        )
        rows = decoded.map_batches(
            Engine,
            fn_constructor_args=self._engine_arguments(card.preprocessing.shape),
            compute=pool,
            batch_size=places.IN_A_BLOCK,  # Ray wants a number where engines have GPUs
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=share.cpus,
            num_gpus=share.gpus,
        )
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)

    def _engine_arguments(self, shape: tuple[int, ...]) -> tuple[object, ...]:
        model = self._model.wanted.repository.get(self._model.wanted.reference)
        reference = f"{model.name}@{model.version}"
        return self._model.given, self._engines.cpus, reference, self._model.labels, self._model.top_k, shape

    def _pool(self, share: Share) -> ray.data.ActorPoolStrategy:
        """Raises Ended if an engine never finds room."""
        most = share.most(self._engines)
        size: dict[str, int] = (
            {"size": self._engines.number} if self._engines.number else {"min_size": 1, "max_size": most}
        )
        return ray.data.ActorPoolStrategy(
            **size, max_concurrent_calls_per_actor=CALLS, enable_true_multi_threading=True
        )


def _decoded(block: pyarrow.Table, decoding: Decoding) -> Iterator[pyarrow.Table]:
    """A task of Ray's."""
    # Of actors, Ray also counts the attempts to reach one that starts again: engines cannot tell how many died.
    deaths = ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number()
    yield from decoding(block, alone=deaths >= ALONE_FROM)


def _on_a_daemon(work: Callable[[], T]) -> asyncio.Future[T]:
    """As `asyncio.to_thread`, but the program's end does not wait for the work: a list of paths may never end."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="cluster", daemon=True).start()
    return asyncio.wrap_future(result)


def _told(error: BaseException) -> str:
    """What went wrong on a machine, in our own words if they are there."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).splitlines() or [""]
    if isinstance(cause, Ended | Unusable | InputError):
        return lines[0]  # Ray adds lines of its own
    # Of an actor that does not start, Ray tells the traceback. Of others, the first line says it.
    told = lines[-1] if getattr(cause, "actor_init_failed", False) else f"{type(cause).__name__}: {lines[0]}"
    return f"Ray could not go on: {told}; start again with --resume"
