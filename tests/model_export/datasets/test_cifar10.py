"""Small archives of both published forms, made here byte by byte, and a real HTTP server."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.datasets import cifar10
from model_export.datasets.by_name import open_data
from model_export.datasets.cifar10 import BINARY, PYTHON, Form, open_cifar10
from model_export.datasets.holding_out import Fold
from model_export.datasets.in_memory import InMemory
from model_export.datasets.layout import Layout
from model_export.datasets.subset import Subset
from model_export.errors import InputError, Unavailable
from model_export.weights import download as download_module

SIZE = 6  # images of a batch; there are 10,000 in the published ones
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
LABELS = np.random.default_rng(0).integers(0, 10, (6, SIZE))
PIXELS = np.random.default_rng(1).integers(0, 256, (6, SIZE, 3072), dtype=np.uint8)


def text(value: bytes) -> bytes:
    """What Python 2 writes for a `str`, which Python 3's pickle cannot: BINSTRING."""
    return b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(rows: np.ndarray) -> bytes:
    """As Python 2 and the NumPy of 2009 pickled an array of bytes."""
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(rows.shape[0]) + number(rows.shape[1]) + b"\x86"
    return new + b"(" + number(1) + shape + kind + b"\x89" + text(rows.tobytes()) + b"tb"


def pickled(entries: dict[bytes, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def listed(values: list[bytes]) -> bytes:
    return b"](" + b"".join(values) + b"e"


def python_files() -> dict[str, bytes]:
    files = {
        name: pickled(
            {
                b"batch_label": text(name.encode()),
                b"labels": listed([number(int(label)) for label in labels]),
                b"data": array(pixels),
                b"filenames": listed([text(b"x.png")] * SIZE),
            }
        )
        for name, labels, pixels in zip(BATCHES, LABELS, PIXELS, strict=True)
    }
    names = listed([text(name.encode()) for name in CLASSES])
    return files | {"batches.meta": pickled({b"num_cases_per_batch": number(SIZE), b"label_names": names})}


def binary_files() -> dict[str, bytes]:
    records = np.concatenate([LABELS[..., None].astype(np.uint8), PIXELS], axis=2)
    files = {f"{name}.bin": batch.tobytes() for name, batch in zip(BATCHES, records, strict=True)}
    return files | {"batches.meta.txt": "\n".join((*CLASSES, "", "")).encode()}


FILES = {BINARY: binary_files(), PYTHON: python_files()}


def packed(form: Form, files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        folder = tarfile.TarInfo(form.folder)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in {**files, "readme.html": b"<html>"}.items():
            entry = tarfile.TarInfo(f"{form.folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, form: Form, content: bytes) -> None:
    """Makes `content` the archive whose digest is expected."""
    changed = form._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(cifar10, "FORMS", tuple(changed if f.archive == form.archive else f for f in cifar10.FORMS))
    if form is BINARY:
        monkeypatch.setattr(cifar10, "BINARY", changed)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cifar10, "BATCH_SIZE", SIZE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=[BINARY, PYTHON], ids=["binary", "python"])
def form(request: pytest.FixtureRequest) -> Form:
    chosen: Form = request.param
    return chosen


def stored(folder: Path, form: Form, monkeypatch: pytest.MonkeyPatch, **changes: bytes) -> Path:
    """The published archive of a form in a folder, some of its files changed."""
    content = packed(form, {**FILES[form], **changes})
    publish(monkeypatch, form, content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / form.archive).write_bytes(content)
    return folder / form.archive


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check(where: Path | None) -> None:
    data = open_cifar10(where)
    assert isinstance(data.train, Subset)
    assert isinstance(data.val, Subset)
    assert isinstance(data.test, InMemory)
    assert [part.name for part in data.parts] == ["CIFAR-10 train (train)", "CIFAR-10 train (val)", "CIFAR-10 test"]
    assert all(part.classes == CLASSES for part in data.parts)
    whole = data.train.whole
    assert whole is data.val.whole
    assert isinstance(whole, InMemory)
    assert sorted([*data.train.indices, *data.val.indices]) == list(range(5 * SIZE))
    assert whole.labels.tolist() == LABELS[:5].ravel().tolist()
    assert data.test.labels.tolist() == LABELS[5].tolist()
    assert data.test.labels.dtype == np.int64
    assert whole.images.shape == (5 * SIZE, 32, 32, 3)
    # The format: 1024 bytes of red, row by row, then green, then blue.
    image = whole.image(SIZE + 2)
    assert image.getpixel((7, 3)) == tuple(int(PIXELS[1, 2, plane * 1024 + 3 * 32 + 7]) for plane in range(3))
    assert np.array_equal(np.asarray(data.test.image(1)).transpose(2, 0, 1).ravel(), PIXELS[5, 1])


def refusal(where: Path | None, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_cifar10(where, **options)
    return str(caught.value)


# --- where it may be -----------------------------------------------------------------------------------------------


def test_an_archive(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = stored(tmp_path, form, monkeypatch)
    check(archive)
    check(tmp_path)
    check(archive.rename(tmp_path / "renamed"))
    assert list(tmp_path.iterdir()) == [tmp_path / "renamed"]  # nothing was unpacked


def test_an_unpacked_folder(form: Form, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / form.folder, FILES[form])
    check(folder)
    check(tmp_path)
    check(folder.rename(tmp_path / "renamed"))


def test_the_cache(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path / "cache" / "resnet-service" / "cifar10", form, monkeypatch)
    check(None)


def test_missing_sources(tmp_path: Path) -> None:
    assert f"{tmp_path}/typo does not exist: give cifar-10-binary.tar.gz" in refusal(tmp_path / "typo")
    message = refusal(tmp_path)
    assert f"{tmp_path} does not hold CIFAR-10: put one of " in message
    for form in (BINARY, PYTHON):
        assert form.archive in message
        assert f"{form.folder}/" in message


# --- what may be wrong with it -------------------------------------------------------------------------------------


def test_another_file(tmp_path: Path) -> None:
    path = tmp_path / BINARY.archive
    path.write_bytes(b"<html>not found</html>")
    message = refusal(path)
    for part in (str(path), BINARY.sha256, PYTHON.sha256, hashlib.sha256(path.read_bytes()).hexdigest(), "again"):
        assert part in message


def test_digests_are_the_published_ones() -> None:
    """As on the publisher's mirrors and in torchvision and TensorFlow datasets."""
    assert BINARY.sha256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    assert PYTHON.sha256 == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@pytest.mark.parametrize("damage", [lambda content: content[:-3000], lambda content: b"no gzip", lambda content: b""])
def test_an_archive_cut_short(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    assert callable(damage)
    archive = stored(tmp_path, form, monkeypatch)
    archive.write_bytes(damage(archive.read_bytes()))
    assert "is not a published archive of CIFAR-10, or is damaged" in refusal(archive)
    publish(monkeypatch, form, archive.read_bytes())  # as if its digest were right
    assert f"{archive} is damaged or cut short (" in refusal(archive)


def test_a_missing_batch(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (f"data_batch_3{form.suffix}", f"batches.meta{form.meta_suffix}"):
        files = {name: content for name, content in FILES[form].items() if name != missing}
        folder = unpacked(tmp_path / missing, files)
        assert refusal(folder) == f"{folder} lacks {missing}: unpack or download {form.archive} again"
        content = packed(form, files)
        publish(monkeypatch, form, content)
        (tmp_path / "archive").write_bytes(content)
        assert f"{tmp_path}/archive lacks {missing}: " in refusal(tmp_path / "archive")


def changed(form: Form, folder: Path, name: str, content: bytes) -> str:
    """The refusal of an unpacked folder one of whose files is another."""
    path = unpacked(folder, {**FILES[form], name: content})
    message = refusal(path)
    assert message.startswith(f"{path} is not CIFAR-10 as published (")
    assert message.endswith(f"): download {form.archive} again")
    return message


def test_binary_batches_of_another_kind(tmp_path: Path) -> None:
    batch = FILES[BINARY]["data_batch_2.bin"]
    assert f"a batch has {len(batch) - 1} bytes, not {len(batch)}" in changed(
        BINARY, tmp_path / "short", "data_batch_2.bin", batch[:-1]
    )
    assert "labels go from" in changed(BINARY, tmp_path / "label", "data_batch_2.bin", b"\x0a" + batch[1:])
    assert "does not name 10 classes" in changed(BINARY, tmp_path / "meta", "batches.meta.txt", b"a\nb\n")


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({b"labels": listed([number(1)] * SIZE)}, "lacks its array `data` or its list `labels`"),
        ({b"data": array(PIXELS[0])}, "lacks its array `data` or its list `labels`"),
        ({b"data": array(PIXELS[0]), b"labels": listed([text(b"1")] * SIZE)}, "lacks its array"),
        ({b"data": array(PIXELS[0]), b"labels": listed([number(1)] * 5)}, rf"\({SIZE}, 3072\) and 5 labels"),
        ({b"data": array(PIXELS[0][:, :9]), b"labels": listed([number(1)] * SIZE)}, rf"shape \({SIZE}, 9\)"),
        ({b"data": array(PIXELS[0]), b"labels": listed([number(-1)] * SIZE)}, "labels go from -1 to -1"),
    ],
)
def test_pickled_batches_of_another_kind(tmp_path: Path, entries: dict[bytes, bytes], fault: str) -> None:
    assert re.search(fault, changed(PYTHON, tmp_path / "x", "data_batch_2", pickled(entries)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"garbage", FILES[PYTHON]["test_batch"][:-900], array(PIXELS[0]).replace(b"u1", b"O8") + b"."],
)
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    changed(PYTHON, tmp_path / "x", "test_batch", content)


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    assert "holds a list, not a dictionary" in changed(PYTHON, tmp_path / "x", "batches.meta", pickle.dumps([1]))
    assert "does not name 10 classes" in changed(PYTHON, tmp_path / "y", "batches.meta", pickle.dumps({}))


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    content = pickle.dumps({b"label_names": Malice(trace)})
    message = changed(PYTHON, tmp_path / "x", "batches.meta", content)
    assert "pickled Python object `" in message
    assert "could run any code" in message
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # it would have been


@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "numpy.core.multiarray\nscalar", "numpy\nload"])
def test_only_arrays_are_rebuilt(tmp_path: Path, name: str) -> None:
    content = f"c{name}\n".encode() + text(b"x") + b"\x85R."
    assert f"`{name.replace(chr(10), '.')}`" in changed(PYTHON, tmp_path / "x", "data_batch_1", content)


# --- downloading ---------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    content = b""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Serving(Handler):
        asked: list[str] = []  # noqa: RUF012

    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Serving) as running:
        monkeypatch.setenv("MODEL_EXPORT_CIFAR10_URL", f"http://127.0.0.1:{running.server_address[1]}/mirror/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Serving
        running.shutdown()
        thread.join()


def test_it_is_downloaded_once(server: type[Handler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = packed(BINARY, FILES[BINARY])
    publish(monkeypatch, BINARY, server.content)
    check(None)
    check(None)
    assert server.asked == ["/mirror/cifar-10-binary.tar.gz"]
    cache = tmp_path / "cache" / "resnet-service" / "cifar10"
    assert list(cache.iterdir()) == [cache / BINARY.archive]


def test_a_download_of_something_else(server: type[Handler], tmp_path: Path) -> None:
    server.content = b"<html>log in first</html>"
    assert "is not the expected file" in refusal(None)
    assert list((tmp_path / "cache" / "resnet-service" / "cifar10").iterdir()) == []


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download_module, "BACKOFF_S", 0.0)
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("MODEL_EXPORT_CIFAR10_URL", url)
        with pytest.raises(Unavailable) as caught:
            open_cifar10(None)
    cached = tmp_path / "cache" / "resnet-service" / "cifar10" / BINARY.archive
    for part in (f"{url}/{BINARY.archive}", str(cached), "`--data cifar10:PATH`"):
        assert part in str(caught.value)


def test_the_default_address_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def record(url: str, path: Path, digest: str, **_: str) -> str:
        asked.append((url, path, digest))
        raise Unavailable("stop here")

    monkeypatch.delenv("MODEL_EXPORT_CIFAR10_URL", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cifar10, "download", record)
    with pytest.raises(Unavailable):
        open_cifar10(None)
    archive = tmp_path / ".cache" / "resnet-service" / "cifar10" / BINARY.archive
    assert asked == [(f"https://www.cs.toronto.edu/~kriz/{BINARY.archive}", archive, BINARY.sha256)]


def test_all_training_images_can_be_trained_on(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "cifar", FILES[BINARY])
    data = open_data(f"cifar10:{folder}", layout=Layout("train,test"))
    assert [(part.name, len(part)) for part in data.parts] == [("CIFAR-10 train", 5 * SIZE), ("CIFAR-10 test", SIZE)]
    assert data.train.labels.tolist() == LABELS[:5].ravel().tolist()
    assert data.val.labels.tolist() == LABELS[5].tolist()
    assert "CIFAR-10 has no parts train,val: give `--split train,test`" in refusal(folder, split="train,val")
    message = refusal(folder, split="train,test", fold=Fold(1, 5))
    assert message == "--split train,test trains on all images: leave it out, or --folds and --fold"


def test_a_path_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"^{tmp_path}/downloads does not exist"):
        open_cifar10(Path("~/downloads"))
