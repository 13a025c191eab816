"""Models in a real OCI registry: as an artifact with a layer for each file, and as an image with archives."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.fetch import transfer
from service.fetch.oci_source import OciSource
from service.fetch.registry import Described, Manifest, Reference
from service.fetch.source import Interrupted
from service.fetch.transfer import ATTEMPTS
from service.runtime.model_state import read_folder_state, read_state
from tests.support.buckets import Breaking
from tests.support.disks import small_disk_at
from tests.support.folders import whole
from tests.support.registry import INDEX, MANIFEST, PASSWORD, USER, push, push_manifest, registry

Fetch = Callable[..., Any]
TITLE = "org.opencontainers.image.title"
WHOLE = 1_500_000  # bytes of a model file, see `enlarge`
SERVED = ["resnet20-cifar@1", "resnet8-cifar@1", "resnet8-cifar@2"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def files(root: Path) -> list[tuple[bytes, dict[str, str]]]:
    """A layer for each file, as `oras push` makes them of paths."""
    return [
        (path.read_bytes(), {TITLE: path.relative_to(root).as_posix()})
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]


def archive(root: Path, prefix: str, *, compressed: bool = True, leave_out: tuple[str, ...] = ()) -> bytes:
    """A folder as a layer of an image; files with the same content are hard links, as in a published folder."""
    packed = io.BytesIO()
    seen: dict[bytes, str] = {}
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            inner = f"{prefix}{path.relative_to(root).as_posix()}"
            if inner in leave_out:
                continue
            info = tarfile.TarInfo(inner)
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            content = path.read_bytes()
            if content in seen:
                info.type, info.linkname = tarfile.LNKTYPE, seen[content]
                tar.addfile(info)
                continue
            seen[content] = inner
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(packed.getvalue()) if compressed else packed.getvalue()


def layer_of(entries: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def link_to_nothing() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("models/link")
        info.type, info.linkname = tarfile.LNKTYPE, "nowhere"
        tar.addfile(info)
    return packed.getvalue()


@pytest.mark.parametrize("by_digest", [False, True])
def test_an_artifact_with_a_layer_for_each_file(
    by_digest: bool, host: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    digest = push(f"{host}/team/models:1.0", files(published))
    source = f"oci://{host}/team/models" + (f"@{digest}" if by_digest else ":1.0")
    assert run(source).status == 0
    assert whole(tmp_path / "models") == SERVED
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"stable": 1, "canary": 2}
    assert read_folder_state(tmp_path / "models").default == "resnet20-cifar"
    assert run(source).out.count("is there") == 3


@pytest.mark.parametrize(("prefix", "compressed"), [("models/", True), ("srv/models/", False), ("./", True)])
def test_an_image_whose_layers_hold_the_folder(
    prefix: str, compressed: bool, host: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    push(f"{host}/image:latest", [(archive(published, prefix, compressed=compressed), {})])
    fetched = run(f"oci://{host}/image")
    assert fetched.status == 0, fetched.err
    assert whole(tmp_path / "models") == SERVED
    assert [path.name for path in (tmp_path / "models").iterdir() if path.name.startswith(".")] == [".fetched.json"]


def test_an_image_that_has_not_changed_is_not_downloaded_again(
    host: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    push(f"{host}/same:1", [(archive(published, "models/"), {})])
    proxy = Breaking(f"http://{host}", 0, times=0)
    source = f"oci://{proxy.address.removeprefix('http://')}/same:1"
    assert run(source).status == 0
    first = proxy.passed
    fetched = run(source)
    assert fetched.out.startswith(f"nothing has changed: {source} is still sha256:")
    assert proxy.passed - first < 10_000
    (tmp_path / "models" / "resnet8-cifar" / "1" / "model.onnx").unlink()
    assert run(source).status == 0
    assert whole(tmp_path / "models") == SERVED
    proxy.close()


def test_hard_links_within_an_archive(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    copy = published / "resnet8-cifar" / "4"
    copy.mkdir()
    for path in (published / "resnet8-cifar" / "1").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "version": 4}))
    push(f"{host}/links:1", [(archive(published, "models/"), {})])
    assert run(f"oci://{host}/links:1", "--models=resnet8-cifar@4").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@4"]


def test_later_layers_replace_and_remove(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    state = json.loads((published / "resnet8-cifar" / "model.json").read_text())
    state["aliases"] = {"stable": 3}
    later = {
        "models/resnet8-cifar/model.json": json.dumps(state).encode(),
        "models/.wh.resnet20-cifar": b"",
        "models/.wh...": b"",  # names no file: nothing outside of the folder may go
    }
    push(f"{host}/layers:1", [(archive(published, "models/"), {}), (layer_of(later), {})])
    fetched = run(f"oci://{host}/layers:1")
    assert fetched.status == 0, fetched.err
    assert whole(tmp_path / "models") == ["resnet8-cifar@3"]


def test_an_archive_cannot_write_outside(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    evil = {"../../outside": b"1", f"{tmp_path}/absolute": b"1", "models/../../../outside": b"1"}
    push(f"{host}/evil:1", [(layer_of(evil), {}), (archive(published, "models/"), {})])
    assert run(f"oci://{host}/evil:1").status == 0
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "absolute").exists()
    assert not (tmp_path / "models" / "outside").exists()


def test_of_an_index_the_first_image_that_is_one(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    entries = []
    for content, notes in ((b"{}", {"vnd.docker.reference.type": "attestation-manifest"}), (None, {})):
        layers = [(content, {})] if content else files(published)
        digest = push(f"{host}/index:part", layers)
        entries.append({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1})
        entries[-1]["annotations"] = notes
    push_manifest(f"{host}/index:1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    assert run(f"oci://{host}/index:1").status == 0
    assert whole(tmp_path / "models") == SERVED


def test_a_blob_that_breaks_off_is_resumed(
    host: str, published: Path, tmp_path: Path, run: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    push(f"{host}/broken:1", files(published))
    proxy = Breaking(f"http://{host}", WHOLE // 2, times=1)
    assert run(f"oci://{proxy.address.removeprefix('http://')}/broken:1", "--models=resnet8-cifar@1").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@1"]
    assert any("trying again in " in message for message in caplog.messages)
    assert proxy.passed < 1.5 * WHOLE
    proxy.close()


class Failing:
    """A registry with an image of archives. Counts how often each of them is asked for."""

    def __init__(self, *archives: bytes) -> None:
        self._archives = {f"sha256:{hashlib.sha256(content).hexdigest()}": content for content in archives}
        self.reference = Reference("localhost", "models", "1")
        self.asked = dict.fromkeys(self._archives, 0)
        self.fails = False  # the last one

    def manifest(self, version: str) -> tuple[Manifest, str]:
        layers = [Described(digest=digest, size=len(content)) for digest, content in self._archives.items()]
        return Manifest(layers=layers), "sha256:" + "0" * 64

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        self.asked[digest] += 1
        if self.fails and digest == list(self._archives)[-1]:
            raise Interrupted("no route")
        yield self._archives[digest][offset:]


def test_an_archive_is_tried_again_alone_and_not_downloaded_twice(published: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    host: Any = Failing(archive(published, "models/"), layer_of({"models/more": b"1"}))

    def listed() -> set[str]:
        return set(OciSource("oci://localhost/models:1", host, tmp_path / "work").sizes())

    host.fails = True
    with pytest.raises(Interrupted):
        listed()
    assert list(host.asked.values()) == [1, ATTEMPTS]
    host.fails = False
    assert "more" in listed()
    assert list(host.asked.values()) == [1, ATTEMPTS + 1]
    assert "more" in listed()  # as after a run that ended between unpacking and copying
    assert list(host.asked.values()) == [1, ATTEMPTS + 1]


def test_an_interrupted_download_of_archives_goes_on_in_the_next_run(
    host: str, published: Path, tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    first, second = (
        archive(published / name, f"models/{name}/", compressed=False) for name in ("resnet20-cifar", "resnet8-cifar")
    )
    push(f"{host}/interrupted:1", [(first, {}), (second, {})])
    proxy = Breaking(f"http://{host}", len(first) + len(second) // 2, times=1)
    source = f"oci://{proxy.address.removeprefix('http://')}/interrupted:1"
    fetched = run(source)
    assert fetched.status == 1
    assert "check the network, and run again to go on where this ended" in fetched.err
    assert run(source).status == 0
    assert whole(tmp_path / "models") == SERVED
    assert proxy.passed < len(first) + len(second) + 20_000
    proxy.close()


def test_a_layer_that_is_there_twice(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    layer = archive(published, "models/")
    push(f"{host}/twice:1", [(layer, {}), (layer, {})])
    assert run(f"oci://{host}/twice:1").status == 0
    assert whole(tmp_path / "models") == SERVED


def test_a_disk_that_has_no_room_for_the_archives(host: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    push(f"{host}/large:1", [(archive(published, "models/"), {})])
    with small_disk_at(tmp_path / "models", 2**20):
        fetched = run(f"oci://{host}/large:1")
        assert fetched.status == 1
        assert f"{tmp_path / 'models'} has no space left: free some, or fetch to another disk" in fetched.err
        assert list((tmp_path / "models").iterdir()) == []


def test_a_layer_whose_content_has_changed_is_refused(
    host: str, published: Path, tmp_path: Path, run: Fetch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tampered")
    with registry(folder) as own:
        layer = archive(published, "models/")
        push(f"{own}/models:1", [(layer, {})])
        (blob,) = (path for path in folder.rglob("data") if path.stat().st_size == len(layer))
        blob.write_bytes(layer[:-100] + bytes(100))
        fetched = run(f"oci://{own}/models:1")
    assert fetched.status == 1
    assert "is not what its digest says: try again, or push the models again" in fetched.err
    assert whole(tmp_path / "models") == []
    assert not (tmp_path / "models" / ".fetching").exists()


@pytest.mark.parametrize("file", ["models.json", "resnet8-cifar/model.json", "resnet8-cifar/1/card.json"])
def test_a_file_whose_content_has_changed_in_the_registry_is_refused(
    file: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    """The card is the root of all other digests, so the manifest's digest of it counts."""
    with registry(tmp_path / "registry") as own:
        digest = push(f"{own}/models:1", files(published))
        content = (published / file).read_bytes()
        kept = [path for path in (tmp_path / "registry").rglob("data") if path.read_bytes() == content]
        for blob in kept:
            blob.write_bytes(content.replace(b" ", b"\t", 1))  # the same JSON
        fetched = run(f"oci://{own}/models@{digest}", "--models=resnet8-cifar@1")
    assert len(kept) == 1
    assert fetched.status == 1
    assert f"{file} is not what its digest says: try again, or push the models again" in fetched.err
    assert whole(tmp_path / "models") == []


def test_a_file_with_another_digest_than_the_cards_is_refused(
    host: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    path = published / "resnet20-cifar" / "1" / "self_test.npz"
    path.write_bytes(path.read_bytes() + b"more")
    push(f"{host}/wrong:1", files(published))
    fetched = run(f"oci://{host}/wrong:1")
    assert fetched.status == 1
    assert f"oci://{host}/wrong:1/resnet20-cifar/1/self_test.npz has " in fetched.err
    assert whole(tmp_path / "models") == ["resnet8-cifar@1", "resnet8-cifar@2"]


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ("nobody/models:1", "does not exist: correct the address, or push the models there"),
        ("empty:1", "holds no models: it should have files like resnet50/1/card.json"),
        ("text:1", "is no tar archive that can be read here"),
        ("damaged:1", "is no tar archive that can be read here"),
        ("link:1", "is no tar archive that can be read here"),
        ("index:0", "is an index without an image: push a model folder"),
        ("two:1", "holds several model folders (a/, b/): push one"),
    ],
)
def test_an_image_that_cannot_be_used(image: str, fault: str, host: str, published: Path, run: Fetch) -> None:
    push(f"{host}/empty:1", [(b"# Models", {TITLE: "README.md"})])
    push(f"{host}/text:1", [(b"not an archive", {})])
    packed = bytearray(gzip.compress(layer_of({"models/text": b" ".join(b"%d" % number for number in range(10**5))})))
    packed[len(packed) // 2 : -1000] = b"\xff" * (len(packed) // 2 - 1000)
    push(f"{host}/damaged:1", [(bytes(packed), {})])
    push(f"{host}/link:1", [(link_to_nothing(), {})])
    attested = {"digest": push(f"{host}/index:part", [(b"{}", {})]), "size": 1, "mediaType": MANIFEST}
    attested["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    push_manifest(f"{host}/index:0", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [attested]})
    one = published / "resnet20-cifar"
    push(f"{host}/two:1", [(archive(one, "a/resnet20-cifar/"), {}), (archive(one, "b/resnet20-cifar/"), {})])
    fetched = run(f"oci://{host}/{image}")
    assert fetched.status == 1
    assert fault in fetched.err


def test_a_registry_that_asks_who_is_there(published: Path, tmp_path: Path, run: Fetch) -> None:
    with registry(tmp_path / "registry", login=True) as host:
        push(f"{host}/models:1", files(published), (USER, PASSWORD))
        refused = run(f"oci://{host}/models:1")
        assert refused.status == 1
        assert f"(HTTP 401 Unauthorized): log in with `docker login {host}`" in refused.err

        (tmp_path / "docker").mkdir()
        login = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: login}}))
        assert run(f"oci://{host}/models:1").status == 0
    assert whole(tmp_path / "models") == SERVED
