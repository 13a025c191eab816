"""What the machine runs short of: the service serves on or refuses with a reason, and never dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.small_disk import fill
from tests.support.disks import small_disk_at
from tests.support.processes import Service, starting_with

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SETTINGS = {"models": "resnet8-cifar", "provider": "cpu", "max_batch": 1}


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of as many bytes as the parameter says; it is the folder for temporary files."""
    with small_disk_at(tmp_path / "small", request.param) as folder:
        yield folder


@pytest.mark.parametrize("small_disk", [64 * 1024], indirect=True)
def test_without_room_for_the_workers_counters_it_refuses_to_start(
    tiny_dir: Path, start_service: Callable[..., Service], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_disk))
    service = start_service(tiny_dir, **SETTINGS, workers=2, ready=False)
    assert service.process.wait(timeout=60) == 1
    assert "has no room for 917504 bytes of counters: [Errno 28] No space left on device; set TMPDIR" in (
        service.log.read_text()
    )


@pytest.mark.parametrize("small_disk", [8 * 2**20], indirect=True)
def test_a_folder_for_temporary_files_that_fills_up_changes_nothing(
    tiny_dir: Path,
    start_service: Callable[..., Service],
    small_disk: Path,
    photo: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_disk))
    service = start_service(tiny_dir, **SETTINGS, workers=2)
    service.wait_until_all_listen()
    fill(small_disk)
    for query in ("", "?top_k=2", "?model=nothing", "?top_k=0", "?depth=7", "?unknown=1"):
        assert {service.classify(photo, query).status_code for _ in range(10)} <= {200, 404, 422}
    for data in (b"", b"no image", photo[:100]):
        assert service.classify(data).status_code in (400, 422)
    assert 'resnet_requests_total{model="resnet8-cifar",problem="",status="200"} 20.0' in service.get("/metrics").text
    assert service.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cache_folder_that_cannot_be_written_costs_only_time(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, tmp_path: Path, workers: int
) -> None:
    file = tmp_path / "file"
    file.touch()
    service = start_service(tiny_dir, **SETTINGS, workers=workers, cache_dir=file / "cache")
    assert service.classify(photo).status_code == 200


def test_one_process_needs_no_folder_for_temporary_files(
    tiny_dir: Path, start_service: Callable[..., Service], photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    service = start_service(tiny_dir, **SETTINGS)
    assert service.classify(photo).status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clock_that_jumps_changes_nothing(
    tiny_dir: Path,
    start_service: Callable[..., Service],
    photo: bytes,
    tmp_path: Path,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deadlines, rates and the watchdog use the monotonic clock."""
    program = f"""import os, time
real = time.time
def jumping():
    try:
        return real() + float(open({str(tmp_path / "offset")!r}).read())
    except (OSError, ValueError):
        return real()
time.time = jumping
"""
    monkeypatch.setenv("PYTHONPATH", starting_with(tmp_path, program)["PYTHONPATH"])
    service = start_service(tiny_dir, **SETTINGS, workers=workers, hang_timeout=60, request_timeout=60)
    for offset in ("1000000", "-1000000", "0"):
        (tmp_path / "offset").write_text(offset)
        headers = {"content-type": "image/jpeg", "x-request-timeout-ms": "60000"}
        for _ in range(10):
            assert service.post("/classify", content=photo, headers=headers).status_code == 200
    assert service.stop() == 0
    assert "no progress" not in service.log.read_text()
