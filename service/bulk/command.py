"""One run of `resnet classify`: from its options to its exit status."""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Protocol, TextIO

from service import logs
from service.bulk.formats import Csv, JsonLines, Lines
from service.bulk.inputs import InputError, Inputs
from service.bulk.overlays import Overlays
from service.bulk.parquet import ParquetSink
from service.bulk.progress import LINE_EVERY_S, TERMINAL_EVERY_S, Progress
from service.bulk.rows import Row
from service.bulk.sinks import FileSink, Sink, SinkError, StreamSink
from service.bulk.stream import Classifier, Ended, Stream, Unusable
from service.predictions import DEFAULT_TOP_K

SOME_FAILED, COULD_NOT_BEGIN = 1, 2
MOST_BYTES_SENT = 2**30  # of one image; servers have limits of their own
PATIENCE_S = 1.0  # before a terminal is told what takes so long


class Rows(Protocol):
    """A run that gives a row for each input: `Stream`, or one on a cluster."""

    def rows(self) -> AsyncGenerator[Row, None]: ...

    def stop(self) -> None: ...


Count = Callable[[], int]  # of all images, as for `Progress`


def classify(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    logs.configure("warning", "text", access=False)
    try:
        return asyncio.run(_classify(args))
    except (InputError, SinkError, Unusable) as error:
        return _error(error, COULD_NOT_BEGIN)
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except OSError as error:
        return _error(_told(error), SOME_FAILED)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _stdin() -> io.BufferedReader:
    return open(0, "rb", closefd=False)


def _error(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


async def _classify(args: argparse.Namespace) -> int:
    if args.ray:
        return await _classify_on_cluster(args)
    async with _classifier(args) as (classifier, max_bytes):
        inputs = Inputs(args.paths, _stdin, max_bytes)
        sink, overlays = _outputs(args)
        with closing(sink):
            stream = Stream(sink.done.leave_out(inputs.sources()), classifier)
            count = inputs.count if inputs.countable else None
            return await _write(inputs, stream, sink, overlays, count, to_stdout=not (args.output or args.parquet))


async def _classify_on_cluster(args: argparse.Namespace) -> int:
    from service.bulk.cluster import environment

    environment.prepare(args.ray)  # before Ray is imported
    try:
        from service.bulk.cluster.capacity import Engines
        from service.bulk.cluster.places import S3
        from service.bulk.cluster.running import ClusterStream, connected, found
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "pyarrow"):
            raise
        raise Unusable("ray is not installed: run pip install 'resnet-service[ray]' on every machine") from None
    from service.bulk.local import read

    settings = read(args.models_dir, args.provider, args.precision)
    model = found(settings, args.model, args.depth, args.labels, args.top_k)
    urls = [path for path in args.paths if path.startswith(S3)]
    inputs = Inputs([path for path in args.paths if path not in urls], _stdin, settings.max_image_bytes)
    sink, _ = _outputs(args)
    with closing(sink), connected(args.ray):
        engines = Engines(args.engines, args.engine_cpus or 1, args.engine_gpus)
        stream = ClusterStream(inputs, urls, args.column, model, engines, sink.done, _tell)
        return await _write(inputs, stream, sink, None, stream.count, to_stdout=not (args.output or args.parquet))


@asynccontextmanager
async def _classifier(args: argparse.Namespace) -> AsyncIterator[tuple[Classifier, int]]:
    """What answers, and the most bytes of an image that it takes. Raises Unusable."""
    # Each way imports what only it needs: a client has no engine, and an engine no client.
    wanted = {name: getattr(args, name) for name in ("model", "depth", "labels", "top_k")}
    wanted["explains"] = args.explain is not None
    if args.url:
        from service.bulk.remote import connected

        options = {"api_key_file": args.api_key_file, "ca_file": args.ca_file, "at_once": args.connections}
        async with connected(args.url, **options, **wanted) as remote:
            yield remote, MOST_BYTES_SENT
        return

    from service.bulk.local import opened, read

    def explain() -> None:
        print("loading the model: the first time on a machine, its speed is measured", file=sys.stderr)

    settings = read(args.models_dir, args.provider, args.precision)
    waiting = asyncio.get_running_loop().call_later(PATIENCE_S if sys.stderr.isatty() else math.inf, explain)
    try:
        async with opened(settings, **wanted) as local:
            waiting.cancel()
            yield local, settings.max_image_bytes
    finally:
        waiting.cancel()


def _outputs(args: argparse.Namespace) -> tuple[Sink, Overlays | None]:
    """Where the rows go, and their overlays. Raises SinkError."""
    try:
        overlays = Overlays(args.explain) if args.explain else None
        return _sink(args), overlays
    except OSError as error:
        raise SinkError(_told(error)) from None


def _sink(args: argparse.Namespace) -> Sink:
    if args.parquet:
        return ParquetSink(args.parquet, resume=args.resume)
    form = JsonLines() if args.json else Csv(args.top_k or DEFAULT_TOP_K) if args.csv else None
    if args.output:
        assert form is not None  # the parser sees to it
        return FileSink(args.output, form, resume=args.resume)
    return StreamSink(sys.stdout.buffer, form or Lines())


async def _write(
    inputs: Inputs, stream: Rows, sink: Sink, overlays: Overlays | None, count: Count | None, *, to_stdout: bool
) -> int:
    """Writes a row for each input that has none yet. Returns the exit status."""
    progress = _progress(sys.stderr, count, before=sink.done.rows, beside_rows=to_stdout and sys.stdout.isatty())
    status, interrupted = 0, ""
    with _on_signals(stream.stop) as caught:
        try:
            async for row in stream.rows():
                if overlays and row.overlay is not None:
                    overlays.write(row.file, row.overlay)  # first: an image that has a row is not looked at again
                sink.write(row)
                progress.add(failed=row.problem is not None)
        except (Ended, SinkError) as error:
            status = _error(error, SOME_FAILED if progress.done else COULD_NOT_BEGIN)
    if caught:
        status, interrupted = 128 + caught[0], "interrupted: "
    progress.close(interrupted)
    if inputs.skipped:
        print(
            f"files in folders that are left out, as they are not named like images: {inputs.skipped}", file=sys.stderr
        )
    return status or (SOME_FAILED if progress.failed else 0)


def _progress(stream: TextIO, count: Count | None, *, before: int, beside_rows: bool) -> Progress:
    """
    Args:
        count: None if nobody can tell.
        beside_rows: whether the rows go to a terminal, which shows the progress by itself.
    """
    terminal = stream.isatty() and not beside_rows
    every = TERMINAL_EVERY_S if terminal else math.inf if beside_rows else LINE_EVERY_S
    return Progress(stream, terminal=terminal, every=every, before=before, count=count)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Calls `stop` at the first SIGINT or SIGTERM; the second one acts as ever. Yields a list of those that came."""
    loop = asyncio.get_running_loop()
    caught: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)

    def catch(number: int) -> None:
        caught.append(number)
        release()
        stop()

    def release() -> None:
        for number in handled:
            loop.remove_signal_handler(number)

    for number in handled:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        release()
