"""Downloads from a real HTTP server on this machine, which misbehaves on demand."""

import functools
import hashlib
import logging
import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_export.datasets import cifar10
from model_export.errors import InputError, Unavailable
from model_export.weights import download as download_module
from model_export.weights.imagenet import load_imagenet
from tests.model_export.weights.file_server import CONTENT, Fault, FileServer

DIGEST = hashlib.sha256(CONTENT).hexdigest()

download = functools.partial(
    download_module.download, by_hand="give it with `--weights FILE`", other_disk="set TORCH_HOME"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "net.pth"


def partial_of(path: Path, content: bytes | None = None) -> Path:
    partial = path.with_name(path.name + ".partial")
    if content is not None:
        path.parent.mkdir()
        partial.write_bytes(content)
    return partial


def test_downloads(server: FileServer, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert download(f"{server.url}/net.pth", path, DIGEST) == DIGEST
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/net.pth", None)]
    assert list(path.parent.iterdir()) == [path]
    assert "net.pth: 1 of 1 MB in" in caplog.text  # lines, because there is no terminal


def test_a_prefix_of_the_digest_suffices(server: FileServer, path: Path) -> None:
    assert download(f"{server.url}/net.pth", path, DIGEST[:8]) == DIGEST


def test_of_several_at_once_one_downloads(server: FileServer, path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        digests = list(threads.map(lambda _: download(f"{server.url}/net.pth", path, DIGEST), range(3)))
    assert digests == [DIGEST] * 3
    assert server.requests == [("/net.pth", None)]
    assert list(path.parent.iterdir()) == [path]


def test_a_broken_connection_is_resumed(server: FileServer, path: Path) -> None:
    server.faults.append(Fault(cut_at=300_000))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.requested_ranges == [None, "bytes=300000-"]


def test_a_partial_file_of_an_earlier_run_is_resumed(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT[:1000])
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.requested_ranges == ["bytes=1000-"]


def test_a_server_without_ranges_starts_over(server: FileServer, path: Path) -> None:
    server.ranges = False
    partial_of(path, b"x" * 1000)
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.requested_ranges == ["bytes=1000-"]


def test_a_partial_file_longer_than_the_file_starts_over(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT + b"x")
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.requested_ranges == [f"bytes={len(CONTENT) + 1}-", None]


def test_a_range_that_was_not_requested_starts_over(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT[:1000])
    server.faults.append(Fault(wrong_range=True))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.requested_ranges == ["bytes=1000-", None]


def test_a_server_error_is_retried(server: FileServer, path: Path) -> None:
    server.faults.append(Fault(status=503))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_persistent_server_error_is_reported(server: FileServer, path: Path) -> None:
    server.faults.extend([Fault(status=503)] * 5)
    with pytest.raises(Unavailable, match="HTTP 503 Service Unavailable"):
        download(f"{server.url}/net.pth", path, DIGEST)
    assert len(server.requests) == 3


def test_a_broken_transfer_keeps_the_partial_file(server: FileServer, path: Path) -> None:
    server.faults.extend([Fault(cut_at=300_000), Fault(status=503), Fault(status=503)])
    with pytest.raises(Unavailable):
        download(f"{server.url}/net.pth", path, DIGEST)
    assert partial_of(path).read_bytes() == CONTENT[:300_000]
    assert not path.exists()


def test_not_found_is_not_retried(server: FileServer, path: Path) -> None:
    server.faults.append(Fault(status=404))
    with pytest.raises(Unavailable) as refusal:
        download(f"{server.url}/net.pth", path, DIGEST)
    for part in (f"{server.url}/net.pth", "HTTP 404 Not Found", str(path), "`--weights FILE`"):
        assert part in str(refusal.value)
    assert len(server.requests) == 1


def test_wrong_content_is_deleted(server: FileServer, path: Path) -> None:
    server.content = b"<html>log in to the hotel's network</html>"
    with pytest.raises(InputError) as refusal:
        download(f"{server.url}/net.pth", path, DIGEST)
    assert not isinstance(refusal.value, Unavailable)
    for part in (DIGEST, hashlib.sha256(server.content).hexdigest(), "deleted", str(path), "`--weights FILE`"):
        assert part in str(refusal.value)
    assert list(path.parent.iterdir()) == []


def test_no_name_resolution(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = []

    def fail(*args: object, **_: object) -> None:
        lookups.append(args)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unavailable) as refusal:
        download("https://weights.example/net.pth", path, DIGEST)
    for part in ("https://weights.example/net.pth", "name resolution", str(path), "`--weights FILE`"):
        assert part in str(refusal.value)
    assert len(lookups) == 1


def test_a_name_resolution_that_hangs(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hang(*_: object, **__: object) -> None:
        end.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(download_module, "CONNECT_TIMEOUT_S", 0.01)
    try:
        with pytest.raises(Unavailable, match="no connection within"):
            download("https://weights.example/net.pth", path, DIGEST)
    finally:
        end.set()


def test_a_refused_connection(server: FileServer, path: Path) -> None:
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="Connection refused"):
            download(f"http://127.0.0.1:{bound.getsockname()[1]}/net.pth", path, DIGEST)


@pytest.mark.parametrize("url", ["weights.example/net.pth", "ftp://weights.example/net.pth", "http://[/net.pth"])
def test_an_invalid_url(path: Path, url: str) -> None:
    with pytest.raises(Unavailable) as refusal:
        download(url, path, DIGEST)
    assert url in str(refusal.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left(server: FileServer, path: Path) -> None:
    path.parent.mkdir()
    partial_of(path).symlink_to("/dev/full")
    with pytest.raises(InputError, match=rf"no space left in {path.parent} .*TORCH_HOME.*--weights FILE"):
        download(f"{server.url}/net.pth", path, DIGEST)
    assert list(path.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written(server: FileServer, path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"net\.pth\.partial cannot be written.*TORCH_HOME"):
        download(f"{server.url}/net.pth", path, DIGEST)


@pytest.mark.parametrize("cache", ["cifar10", "weights"])
def test_a_user_without_a_home_has_a_cache(
    cache: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No HOME, and a user id that is not in passwd: nothing may be written into a folder called `~`."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("MODEL_EXPORT_WEIGHTS_URL", server.url)
    monkeypatch.setenv("MODEL_EXPORT_CIFAR10_URL", server.url)
    monkeypatch.chdir(tmp_path)
    server.content = b"another file"
    with pytest.raises(
        InputError, match=rf"put the right file at {tmp_path}/tmp/resnet-service-\d+/\.cache/\S+ by hand"
    ):
        load_imagenet(18) if cache == "weights" else cifar10.open_cifar10(None)
    assert not (tmp_path / "~").exists()


def test_catching_input_errors_catches_unavailable_files_too() -> None:
    assert issubclass(Unavailable, InputError)
