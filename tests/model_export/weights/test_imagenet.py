"""torchvision's weights, from a real HTTP server on this machine and from a cache."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model_export.errors import InputError, Unavailable
from model_export.nets.resnet import resnet
from model_export.weights import imagenet
from model_export.weights.imagenet import load_imagenet
from model_export.weights.loading import load_file
from model_export.weights.torchvision_files import IMAGENET_WEIGHTS
from service.runtime.model_card import Architecture
from tests.model_export.weights.file_server import FileServer


def test_table() -> None:
    assert {depth for depth, version in IMAGENET_WEIGHTS if version == "v1"} == {18, 34, 50, 101, 152}
    assert {depth for depth, version in IMAGENET_WEIGHTS if version == "v2"} == {50, 101, 152}
    for (depth, version), entry in IMAGENET_WEIGHTS.items():
        assert re.fullmatch(r"[0-9a-f]{64}" if version == "v1" else r"[0-9a-f]{8}", entry.sha256)
        assert entry.file == f"resnet{depth}-{entry.sha256[:8]}.pth"
        assert 0.69 < entry.top1 < entry.top5 < 0.97
        assert entry.preprocessing.resize == (256 if version == "v1" else 232)
        assert entry.preprocessing.crop == 224


def test_imagenet_with_the_real_files_that_are_cached() -> None:
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    cached = [key for key, entry in IMAGENET_WEIGHTS.items() if (checkpoints / entry.file).exists()]
    if not cached:
        pytest.skip(f"no torchvision weights in {checkpoints}")
    for depth, version in cached:
        loaded = load_imagenet(depth, version)
        assert (loaded.weights.sha256 or "").startswith(IMAGENET_WEIGHTS[depth, version].sha256)


class Cache(NamedTuple):
    """A torch hub cache for one test, and a stand-in for torchvision's file: a real ResNet-18."""

    file: Path  # where torch hub keeps it
    content: bytes
    digest: str


@pytest.fixture(scope="module")
def released_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("torchvision") / "net.pth"
    torch.manual_seed(0)
    torch.save(resnet(18).state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def cache(released_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    digest = hashlib.sha256(released_file).hexdigest()
    entry = IMAGENET_WEIGHTS[18, "v1"]._replace(sha256=digest)
    monkeypatch.setitem(IMAGENET_WEIGHTS, (18, "v1"), entry)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return Cache(tmp_path / "hub" / "checkpoints" / entry.file, released_file, digest)


def test_imagenet_downloads_then_reads_the_cache(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_EXPORT_WEIGHTS_URL", f"{server.url}/mirror")
    server.content = cache.content
    loaded = load_imagenet(18)
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
    assert loaded.weights.license is not None
    assert "terms and conditions derived from the dataset" in loaded.weights.license
    assert loaded.weights.source == "torchvision, https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert len(loaded.labels) == 1000
    assert loaded.preprocessing.resize == 256
    assert loaded.accuracy is not None
    assert (loaded.accuracy.top1, loaded.accuracy.top5, loaded.accuracy.images) == (0.69758, 0.89078, 50000)

    again = load_imagenet(18)
    assert len(server.requests) == 1
    assert again.weights == loaded.weights


def test_a_file_of_torchvisions_given_by_hand_needs_no_options(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The V2 files are for another resize than the usual one, and say nothing of it."""
    entry = IMAGENET_WEIGHTS[50, "v2"]
    released = entry._replace(sha256=cache.digest[:8])
    monkeypatch.setitem(IMAGENET_WEIGHTS, (18, "v1"), released)
    file = tmp_path / "by-hand.pth"
    file.write_bytes(cache.content)
    loaded = load_file(file)
    assert loaded.net.architecture == Architecture(depth=18)
    assert loaded.weights.source == f"torchvision, https://download.pytorch.org/models/{entry.file}"
    assert (loaded.weights.sha256, loaded.weights.license is None) == (cache.digest, False)
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (232, 224)
    assert loaded.accuracy is not None
    assert loaded.accuracy.top1 == entry.top1
    assert loaded.labels[0].name == "tench"
    assert caplog.text == ""
    with pytest.raises(InputError, match=r"holds a different network: it records depth 18, but 34 was requested"):
        load_file(file, depth=34)

    file.write_bytes(cache.content + b"x")  # another file, of which nothing is known
    with pytest.raises(InputError, match="does not record which network it holds: pass `--depth`"):
        load_file(file)


def test_a_damaged_cached_file_is_named_and_replaced(
    server: FileServer, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.file.parent.mkdir(parents=True)
    cache.file.write_bytes(b"damaged")
    server.content = cache.content
    assert load_imagenet(18, base_url=server.url).weights.sha256 == cache.digest
    assert cache.file.read_bytes() == cache.content
    assert f"{cache.file} is damaged" in caplog.text


def test_an_empty_cached_file_is_replaced(server: FileServer, cache: Cache) -> None:
    cache.file.parent.mkdir(parents=True)
    cache.file.touch()
    server.content = cache.content
    load_imagenet(18, base_url=server.url)
    assert cache.file.read_bytes() == cache.content


def test_imagenet_checks_the_digest_before_it_reads(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read before the digest was checked"))
    server.content = cache.content[:-1] + b"x"
    with pytest.raises(InputError, match="is not the expected file"):
        load_imagenet(18, base_url=server.url)


def test_without_network_the_message_names_the_remedy(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/models/"
        with pytest.raises(Unavailable) as refusal:
            load_imagenet(18, base_url=url)
    for part in (f"{url}resnet18-f37072fd.pth", str(cache.file), "`--weights FILE`"):
        assert part in str(refusal.value)


def test_imagenet_has_no_v2_of_depth_18() -> None:
    with pytest.raises(InputError, match="torchvision has no V2 weights of depth 18: choose from 50, 101, 152"):
        load_imagenet(18, "v2")


def test_the_default_url_is_torchvisions(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def record(url: str, path: Path, digest: str, **remedies: str) -> str:
        requested.append((url, path, digest))
        raise Unavailable("stop here")

    monkeypatch.delenv("MODEL_EXPORT_WEIGHTS_URL", raising=False)
    monkeypatch.setattr(imagenet, "download", record)
    with pytest.raises(Unavailable):
        load_imagenet(50, "v2")
    name = "resnet50-11ad3fa6.pth"
    assert requested == [(f"https://download.pytorch.org/models/{name}", cache.file.with_name(name), "11ad3fa6")]


def test_a_cached_file_that_cannot_be_read(cache: Cache) -> None:
    cache.file.mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{cache.file} cannot be read: Is a directory"):
        load_imagenet(18)
