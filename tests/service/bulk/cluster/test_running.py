"""A run on a cluster, as far as it needs none."""

from __future__ import annotations

import asyncio
import os
import threading
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayActorError, RayTaskError

from service.bulk.cluster.capacity import Engines, Share
from service.bulk.cluster.running import ClusterStream, _told, found
from service.bulk.done import Done
from service.bulk.inputs import Inputs
from service.bulk.local import read
from service.bulk.stream import Ended, Unusable

pytestmark = pytest.mark.usefixtures("no_settings")


def test_engines_get_absolute_paths(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have other working folders than the command."""
    (tmp_path / "models").symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    for models_dir in (None, Path("models")):
        monkeypatch.setenv("RESNET_CACHE_DIR", "cache")
        given = found(read(models_dir, "cpu", None), None, None, None, None).given
        assert (given["models_dir"], given["cache_dir"]) == (tmp_path / "models", tmp_path / "cache")


def in_a_task(cause: Exception) -> RayTaskError:
    """As Ray gives it to the driver: the traceback of the task is the message."""
    failed = RayTaskError("Map", "Traceback ...\nSomething: a line of Ray's", cause, proctitle="ray::Map", pid=1, ip="")
    return failed.as_instanceof_cause()


def test_errors_of_tasks_are_told_by_their_causes() -> None:
    assert _told(in_a_task(Unusable("no model; export one\nA line of Ray's"))) == "no model; export one"
    told = "Ray could not go on: ValueError: no such thing; start again with --resume"
    assert _told(in_a_task(ValueError("no such thing\nand more"))) == told


def test_errors_of_ray_are_told_by_their_first_line() -> None:
    told = "Ray could not go on: RayActorError: the machine is gone; start again with --resume"
    assert _told(RayActorError(error_msg="the machine is gone\nand more")) == told


def test_actors_that_do_not_start_are_told_by_the_last_line() -> None:
    """After the traceback."""
    error = RayActorError(error_msg="Traceback ...\nModuleNotFoundError: No module named 'x'", actor_init_failed=True)
    assert _told(error) == "Ray could not go on: ModuleNotFoundError: No module named 'x'; start again with --resume"


def test_stopping_waits_for_no_list_and_begins_nothing(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of paths on a pipe may never end, and what follows it must not start work after the run."""
    begun: list[object] = []
    monkeypatch.setattr("ray.data.from_arrow", begun.append)
    model = found(read(tiny_dir, "cpu", None), None, None, None, None)
    reading, writing = os.pipe()
    opened = threading.Event()

    def stdin() -> BufferedReader:
        opened.set()
        return os.fdopen(reading, "rb")

    stream = ClusterStream(Inputs(["-"], stdin, 1), [], None, model, Engines(None, 1, None), Done(()), print)

    async def run() -> list[object]:
        stopping = asyncio.create_task(asyncio.to_thread(opened.wait))
        stopping.add_done_callback(lambda _: stream.stop())
        return [row async for row in stream.rows()]

    with asyncio.Runner() as runner:
        assert runner.run(run()) == []
    (listing,) = [thread for thread in threading.enumerate() if thread.name == "cluster"]
    os.write(writing, b"a.jpg\n")
    os.close(writing)
    listing.join()
    assert begun == []


def test_all_places_are_counted(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of Parquet files, too, and those that earlier runs have written."""

    def no_cluster(engines: object) -> None:
        raise ExecutionTimeoutError("no progress\nand more")

    monkeypatch.setattr(Share, "of", no_cluster)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"%d" % number for number in range(5)]}), path, row_group_size=2)
    model = found(read(tiny_dir, "cpu", None), None, None, None, None)
    inputs = Inputs([str(path), str(tmp_path / "a.jpg")], lambda: BufferedReader(BytesIO()), 1)
    stream = ClusterStream(inputs, [], None, model, Engines(None, 1, None), Done([f"{path}#3"]), print)

    async def run() -> None:
        async for _ in stream.rows():
            pass

    with pytest.raises(Ended, match="ExecutionTimeoutError: no progress; start again with --resume"):
        asyncio.run(run())
    assert stream.count() == 6
