"""Downloads from a real HTTP server on this machine, which misbehaves on demand."""

import functools
import hashlib
import logging
import os
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model_export import download as download_module
from model_export import weights
from model_export.datasets import cifar10
from model_export.errors import InputError, Unavailable
from model_export.resnet import resnet

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()

download = functools.partial(
    download_module.download, by_hand="give it with `--weights FILE`", other_disk="set TORCH_HOME"
)


class Fault(NamedTuple):
    """What the server does to one request instead of answering it well."""

    status: int | None = None
    cut_at: int | None = None  # bytes of the body after which the connection is closed
    wrong_range: bool = False


class FileServer(ThreadingHTTPServer):
    """Serves `content` at every path. `requests` holds (path, Range header or None) of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def asked_ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.requests.append((self.path, asked))
        fault = self.server.faults.popleft() if self.server.faults else Fault()
        content = self.server.content
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        self.close_connection = True
        if fault.status or start >= len(content):
            self.send_error(fault.status or 416)
            return
        if fault.wrong_range:
            start = 0
        self.send_response(206 if asked and self.server.ranges else 200)
        if asked and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : fault.cut_at])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download_module, "BACKOFF_S", 0.0)
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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
    assert "net.pth: 1 of 1 MB in" in caplog.text  # no terminal here, hence lines


def test_a_prefix_of_the_digest_suffices(server: FileServer, path: Path) -> None:
    assert download(f"{server.url}/net.pth", path, DIGEST[:8]) == DIGEST


def test_a_cut_connection_is_resumed(server: FileServer, path: Path) -> None:
    server.faults.append(Fault(cut_at=300_000))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked_ranges == [None, "bytes=300000-"]


def test_a_partial_file_of_an_earlier_run_is_continued(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT[:1000])
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked_ranges == ["bytes=1000-"]


def test_a_server_without_ranges_starts_over(server: FileServer, path: Path) -> None:
    server.ranges = False
    partial_of(path, b"x" * 1000)
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked_ranges == ["bytes=1000-"]


def test_a_partial_file_longer_than_the_whole_starts_over(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT + b"x")
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked_ranges == [f"bytes={len(CONTENT) + 1}-", None]


def test_another_range_than_asked_for_starts_over(server: FileServer, path: Path) -> None:
    partial_of(path, CONTENT[:1000])
    server.faults.append(Fault(wrong_range=True))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked_ranges == ["bytes=1000-", None]


def test_a_server_error_is_tried_again(server: FileServer, path: Path) -> None:
    server.faults.append(Fault(status=503))
    download(f"{server.url}/net.pth", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_lasting_server_error_is_given_up(server: FileServer, path: Path) -> None:
    server.faults.extend([Fault(status=503)] * 5)
    with pytest.raises(Unavailable, match="HTTP 503 Service Unavailable"):
        download(f"{server.url}/net.pth", path, DIGEST)
    assert len(server.requests) == 3


def test_a_broken_transfer_keeps_its_part(server: FileServer, path: Path) -> None:
    server.faults.extend([Fault(cut_at=300_000), Fault(status=503), Fault(status=503)])
    with pytest.raises(Unavailable):
        download(f"{server.url}/net.pth", path, DIGEST)
    assert partial_of(path).read_bytes() == CONTENT[:300_000]
    assert not path.exists()


def test_not_found_is_not_tried_again(server: FileServer, path: Path) -> None:
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
    answered = threading.Event()

    def hang(*_: object, **__: object) -> None:
        answered.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(download_module, "CONNECT_TIMEOUT_S", 0.01)
    try:
        with pytest.raises(Unavailable, match="no connection within"):
            download("https://weights.example/net.pth", path, DIGEST)
    finally:
        answered.set()


def test_a_refused_connection(server: FileServer, path: Path) -> None:
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="Connection refused"):
            download(f"http://127.0.0.1:{bound.getsockname()[1]}/net.pth", path, DIGEST)


@pytest.mark.parametrize("url", ["weights.example/net.pth", "ftp://weights.example/net.pth", "http://[/net.pth"])
def test_an_address_that_is_none(path: Path, url: str) -> None:
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


class Cache(NamedTuple):
    """A torch hub cache of the test's own, and the published file it is about (a real ResNet-18)."""

    file: Path
    content: bytes
    digest: str


@pytest.mark.parametrize("cache", ["cifar10", "weights"])
def test_a_user_without_a_home_has_a_cache_too(
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
        weights.imagenet(18) if cache == "weights" else cifar10.open_cifar10(None)
    assert not (tmp_path / "~").exists()


@pytest.fixture(scope="module")
def published_content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("published") / "net.pth"
    torch.manual_seed(0)
    torch.save(resnet(18).state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def cache(published_content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    digest = hashlib.sha256(published_content).hexdigest()
    entry = weights.IMAGENET_WEIGHTS[18, "v1"]._replace(sha256=digest)
    monkeypatch.setitem(weights.IMAGENET_WEIGHTS, (18, "v1"), entry)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return Cache(tmp_path / "hub" / "checkpoints" / entry.file, published_content, digest)


def test_imagenet_downloads_then_reads_the_cache(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_EXPORT_WEIGHTS_URL", f"{server.url}/mirror")
    server.content = cache.content
    loaded = weights.imagenet(18)
    assert server.requests == [("/mirror/resnet18-f37072fd.pth", None)]
    assert cache.file.read_bytes() == cache.content

    assert not loaded.net.training
    torch.manual_seed(0)
    original = resnet(18).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.net(images), original(images))
    assert loaded.net.architecture == original.architecture
    assert loaded.weights.sha256 == cache.digest
    assert loaded.weights.license == "BSD-3-Clause"
    assert loaded.weights.source == "torchvision, https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert len(loaded.labels) == 1000
    assert loaded.preprocessing.resize == 256
    assert loaded.accuracy is not None
    assert (loaded.accuracy.top1, loaded.accuracy.top5, loaded.accuracy.images) == (0.69758, 0.89078, 50000)

    again = weights.imagenet(18)
    assert len(server.requests) == 1
    assert again.weights == loaded.weights


def test_a_damaged_cached_file_is_named_and_replaced(
    server: FileServer, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.file.parent.mkdir(parents=True)
    cache.file.write_bytes(b"damaged")
    server.content = cache.content
    assert weights.imagenet(18, base_url=server.url).weights.sha256 == cache.digest
    assert cache.file.read_bytes() == cache.content
    assert f"{cache.file} is damaged" in caplog.text


def test_an_empty_cached_file_is_replaced(server: FileServer, cache: Cache) -> None:
    cache.file.parent.mkdir(parents=True)
    cache.file.touch()
    server.content = cache.content
    weights.imagenet(18, base_url=server.url)
    assert cache.file.read_bytes() == cache.content


def test_imagenet_checks_the_digest_before_it_reads(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read before it was checked"))
    server.content = cache.content[:-1] + b"x"
    with pytest.raises(InputError, match="is not the published file"):
        weights.imagenet(18, base_url=server.url)


def test_imagenet_without_network_names_the_way_out(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/models/"
        with pytest.raises(Unavailable) as refusal:
            weights.imagenet(18, base_url=url)
    for part in (f"{url}resnet18-f37072fd.pth", str(cache.file), "`--weights FILE`"):
        assert part in str(refusal.value)


def test_imagenet_has_no_v2_of_depth_18() -> None:
    with pytest.raises(InputError, match="no published V2 weights of depth 18: choose from 50, 101, 152"):
        weights.imagenet(18, "v2")


def test_the_default_address_is_the_publishers(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(url: str, path: Path, digest: str, **remedies: str) -> str:
        asked.append((url, path, digest))
        raise Unavailable("stop here")

    monkeypatch.delenv("MODEL_EXPORT_WEIGHTS_URL", raising=False)
    monkeypatch.setattr(weights, "download", record)
    with pytest.raises(Unavailable):
        weights.imagenet(50, "v2")
    name = "resnet50-11ad3fa6.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", cache.file.with_name(name), "11ad3fa6")]


def test_a_cached_file_that_cannot_be_read(cache: Cache) -> None:
    cache.file.mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{cache.file} cannot be read: Is a directory"):
        weights.imagenet(18)
