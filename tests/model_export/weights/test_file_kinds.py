import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model_export.errors import InputError
from model_export.weights.file_kinds import check_kind, check_path
from model_export.weights.loading import load_file

TENSORS = {"conv1.weight": torch.arange(2000.0)}


def refusal(path: Path) -> str:
    """Of a file that is loaded as weights, as any caller would."""
    with pytest.raises(InputError) as caught:
        load_file(path, depth=18)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def refusal_of(folder: Path, content: bytes) -> str:
    (folder / "net.safetensors").write_bytes(content)
    as_safetensors = refusal(folder / "net.safetensors")
    (folder / "net.pth").write_bytes(content)
    message = refusal(folder / "net.pth")
    assert as_safetensors == message.replace("net.pth", "net.safetensors")
    return message


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, kind)
    return buffer.getvalue()


def numpy_file(*, several: bool) -> bytes:
    buffer = io.BytesIO()
    if several:
        np.savez(buffer, weight=np.zeros(3), bias=np.zeros(3))
    else:
        np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("is empty", "copy or download it again")),
        (bytes(3_000_000), ("holds only zeros (its download or copy failed): copy or download it again",)),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", ("a Git LFS pointer", "`git lfs pull`")),
        (b"\n<!DOCTYPE html><html>not found</html>", ("a web page", "direct URL")),
        (b'{"message":"Not Found"}', ("is JSON ('{\"message\":\"Not Found\"}')", "if this is a server's answer")),
        (b"Access denied\nfor you", ("is text ('Access denied')", "if this is a server's answer")),
        ("Zugriff verweigert für ".encode() + "ü".encode() * 400, ("is text ('Zugriff verweigert",)),
        (json.dumps({"weight_map": {"a": "2.bin", "b": "1.bin"}}).encode(), ("an index of weights", "1.bin, 2.bin")),
        (gzip.compress(saved(TENSORS)), ("compressed with gzip", "`gunzip`")),
        (bz2.compress(saved(TENSORS)), ("compressed with bzip2", "`bunzip2`")),
        (lzma.compress(saved(TENSORS)), ("compressed with xz", "`unxz`")),
        (b"\x28\xb5\x2f\xfd" + bytes(range(256)), ("compressed with zstd",)),
        (b"7z\xbc\xaf\x27\x1c" + bytes(range(256)), ("compressed with 7-Zip",)),
        (b"Rar!\x1a\x07\x01\x00" + bytes(range(256)), ("compressed with RAR",)),
        (picture("JPEG"), ("a JPEG picture",)),
        (picture("PNG"), ("a PNG picture",)),
        (picture("WebP"), ("a WebP picture",)),
        (picture("GIF"), ("a GIF picture",)),
        (b"%PDF-1.7\n" + bytes(range(256)), ("a PDF document",)),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), ("an HDF5 file of Keras or Caffe",)),
        (b"\x08\x0a\x12\x07pytorch" + bytes(range(256)), ("an ONNX model", "PyTorch weights it was made from")),
        (b"\x08\x0a\x3a\x07" + bytes(range(256)), ("an ONNX model",)),
        (b"\x08\x01\x12\x07" + bytes(range(256)), ("a TensorFlow SavedModel",)),
        (b"\x1c\0\0\0TFL3" + bytes(range(256)), ("a TensorFlow Lite model",)),
        (b"GGUF\x03\0\0\0" + bytes(range(256)), ("a GGUF file",)),
        (b"\x83\xa6params\x81\xa5conv1" + bytes(range(256)), ("a msgpack file, as Flax writes",)),
        (b"\x0a\x09ResNet-50\xa2\x06\x20" + bytes(range(256)), ("a Caffe model",)),
        (b"\x0a\x09ResNet-50\x12\x20" + bytes(range(256)), ("a Caffe model",)),
        (numpy_file(several=False), ("a NumPy array",)),
        (numpy_file(several=True), ("NumPy arrays (.npz)", "torch.from_numpy")),
        (pickle.dumps({"conv1.weight": np.zeros(3)}), ("a pickle that `torch.save` did not write", "any code")),
        (pickle.dumps({"conv1.weight": np.zeros(3)}, protocol=2), ("a pickle that `torch.save` did not write",)),
        (zipped({"out/x.pth": b"", "read.me": b""}), ("a ZIP archive that holds out/x.pth", "pass out/x.pth")),
        (zipped({"a.jpg": b"", "b.jpg": b""}), ("a ZIP archive that holds a.jpg, b.jpg, not", "pass the weight file")),
        (zipped({"model.weights.h5": b"", "config.json": b""}), ("a Keras model",)),
        (tarred("sys_info", "pickle"), ("PyTorch's first format, a tar archive", "weights_only=False")),
        (tarred("pickle", "sys_info"), ("PyTorch's first format",)),
        (tarred("out/x.pth"), ("a tar archive that holds out/x.pth", "unpack it and pass out/x.pth")),
        (saved(TENSORS)[:4000], ("is truncated at 4000 bytes",)),
    ],
)  # fmt: skip
def test_what_it_is_and_what_to_do(tmp_path: Path, content: bytes, parts: tuple[str, ...]) -> None:
    message = refusal_of(tmp_path, content)
    for part in parts:
        assert part in message
    assert "damaged" not in message


def test_programs_of_torch(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, but people still pass it
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    message = refusal(tmp_path / "net.pt")
    assert "TorchScript program" in message
    assert "torch.jit.load(path).state_dict()" in message
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "net.pt2")
    message = refusal(tmp_path / "net.pt2")
    assert "a torch.export program" in message
    assert "torch.export.load(path).state_dict" in message


def test_weights_pass(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(saved(TENSORS))
    assert check_kind(tmp_path / "net").startswith(b"PK")
    torch.save(TENSORS, tmp_path / "net", _use_new_zipfile_serialization=False)
    assert check_kind(tmp_path / "net").startswith(b"\x80")
    torch.save(TENSORS, tmp_path / "net", _use_new_zipfile_serialization=False, pickle_protocol=4)
    assert check_kind(tmp_path / "net").startswith(b"\x80")
    # the length of this safetensors header looks like ONNX's signature
    (tmp_path / "net").write_bytes(bytes((8, 8, 18, 0, 0, 0, 0, 0)) + b'{"conv1.weight": ')
    assert check_kind(tmp_path / "net").startswith(b"\x08")
    (tmp_path / "net").write_bytes(bytes(600) + b"\1")
    assert check_kind(tmp_path / "net") == bytes(512)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "net.pth").endswith("does not exist: check the path")


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.pth").touch()
    assert "cannot be read: Not a directory" in refusal(tmp_path / "net.pth" / "more")


@pytest.mark.parametrize("url", ["https://example.com/net.pth", "s3://bucket/net.pth"])
def test_a_url(url: str) -> None:
    with pytest.raises(InputError, match=f"{url} is a URL, not a file: download it and pass the file"):
        check_path(Path(url))


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ((), "is a folder, without weights (.safetensors, .pth, "),
        (("notes.txt",), "is a folder, without weights"),
        (("best.safetensors", "history.csv"), "is a folder: pass {}/best.safetensors"),
        (("a.pth", "model.safetensors"), "pass {}/model.safetensors, or another of model.safetensors, a.pth"),
        (("epoch-2.pth.tar", "epoch-1.CKPT"), "pass {}/epoch-1.CKPT, or another of epoch-1.CKPT, epoch-2.pth.tar"),
    ],
)
def test_a_folder(tmp_path: Path, inside: tuple[str, ...], message: str) -> None:
    for name in inside:
        (tmp_path / name).touch()
    assert message.format(tmp_path) in refusal(tmp_path)


def test_an_empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the path of the weights is empty or the current folder, without weights"):
        check_path(Path())


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pth")
    assert "is a pipe or device, not a regular file: save its content" in refusal(tmp_path / "net.pth")
