"""Names what was given as a file of weights and is none, by its content, and says what to do about it."""

from __future__ import annotations

import codecs
import json
import re
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from model_export.errors import InputError, some

ADDRESS = re.compile(r"[a-z][a-z0-9]+:/")

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FIRST_NAMES = ("best.safetensors", "model.safetensors", "pytorch_model.bin")  # of our training and Hugging Face

CONVERT = "convert it to PyTorch first"
PICTURE = "give the weights here, pictures belong to a data set"
COPY = "copy or download it again"

# By their bytes at a place.
SIGNATURES = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"),
    *(
        (0, signature, f"compressed with {tool}", f"unpack it with `{command}`")
        for signature, tool, command in (
            (b"\x1f\x8b", "gzip", "gunzip"),
            (b"BZh", "bzip2", "bunzip2"),
            (b"\xfd7zXZ\0", "xz", "unxz"),
            (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
            (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
            (b"Rar!\x1a\x07", "RAR", "unrar x"),
        )
    ),
    (0, b"\x89HDF", "an HDF5 file of Keras or Caffe, not a file of weights", CONVERT),
    (0, b"GGUF", "a GGUF file of llama.cpp, not a file of weights of a ResNet", "give PyTorch weights"),
    (4, b"TFL3", "a TensorFlow Lite model, not a file of weights", "give the PyTorch weights it was made of"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel, not a file of weights", CONVERT),
    # its version of the format, 3 and later, then the name of what wrote it, its graph or its operators
    *(
        (0, bytes((8, ir, field)), "an ONNX model, not a file of weights", "give the PyTorch weights it was made of")
        for ir in range(3, 20)
        for field in (18, 58, 66)
    ),
    (
        0,
        b"\x93NUMPY",
        "a NumPy array, not a file of weights",
        "save a state dict, `torch.save({name: tensor, ...}, ...)`",
    ),
    *(
        (0, signature, f"a {kind} picture, not a file of weights", PICTURE)
        for signature, kind in ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"))
    ),
    (8, b"WEBP", "a WebP picture, not a file of weights", PICTURE),
    (0, b"%PDF", "a PDF document, not a file of weights", "give the weights"),
)

MAX_HEADER = 100_000_000  # bytes, of safetensors
LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # how `torch.save` began before its files were ZIP archives


def check_path(path: Path) -> None:
    """Raises InputError if there is no file to read, and names what could have been meant."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if ADDRESS.match(str(path)):
            raise InputError(f"{path} is an address, not a file: download it first and give the file") from None
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(_folder(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file but a pipe or device: save its content to a file and give that")


def _folder(path: Path) -> str:
    # An empty text becomes Path("."), too.
    subject = "the path of the weights is empty or the current folder" if path == Path() else f"{path} is a folder"
    try:
        inside = sorted(
            (one.name for one in path.iterdir() if one.is_file() and one.name.lower().endswith(WEIGHTS)),
            key=lambda name: (name not in FIRST_NAMES, name),
        )
    except OSError as error:
        return f"{subject} that cannot be read: {error.strerror}"
    if not inside:
        return f"{subject}, without weights ({', '.join(WEIGHTS)}) in it: give the file of weights itself"
    best = str(path / inside[0])
    return f"{subject}: give {best}" + (f", or another of {some(inside)}" if len(inside) > 1 else "")


def check_kind(path: Path) -> bytes:
    """The first 512 bytes of a file.

    Raises:
        InputError: it is empty, or known and no file of weights.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: {COPY}")
    with path.open("rb") as file:
        head = file.read(512)
    if begins_as_safetensors(head):
        return head
    for place, signature, kind, remedy in SIGNATURES:
        if head.startswith(signature, place):
            raise InputError(f"{path} is {kind}: {remedy}")
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path} is a page of the web, not a file of weights: download it by its direct address")
    if head.startswith(b"PK"):
        _check_zip(path)
    elif head[257:262] == b"ustar" or head.startswith(b"sys_info"):
        _check_tar(path, head)
    elif not head.strip(b"\0") and _holds_only_zeros(path):
        raise InputError(f"{path} holds only zeros: the download or copy failed, make it again")
    elif _is_plain_pickle(head):
        raise InputError(
            f"{path} is a pickle that `torch.save` did not write, and unpickling it can run any code: where you trust "
            "it, load it and save its weights as tensors, `torch.save({name: torch.as_tensor(array), ...}, ...)`"
        )
    elif _is_msgpack(head):
        raise InputError(f"{path} is a msgpack file, as Flax writes, not a file of weights: {CONVERT}")
    elif _is_caffe(head):
        raise InputError(f"{path} is a model of Caffe, not a file of weights: {CONVERT}")
    else:
        _check_text(path, head)
    return head


def begins_as_safetensors(head: bytes) -> bool:
    """With the length of a JSON object, 8 bytes, and its brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER


def _check_zip(path: Path) -> None:
    """Passes what `torch.save` wrote."""
    if not zipfile.is_zipfile(path):  # its table of contents is at its end
        raise InputError(f"{path} is cut short at {path.stat().st_size} bytes: {COPY}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise InputError(f"{path} is damaged: {COPY}") from None
    inner = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") for name in inner):
        raise InputError(
            f"{path} is a TorchScript program, not a file of weights: save its weights with "
            "`torch.save(torch.jit.load(path).state_dict(), ...)`"
        )
    if "data.pkl" in inner or "data.pkl" in names:
        return
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        raise InputError(
            f"{path} is a program of torch.export, not a file of weights: save its weights with "
            "`torch.save(torch.export.load(path).state_dict, ...)`"
        )
    if "model.weights.h5" in names:
        raise InputError(f"{path} is a model of Keras, not a file of weights: {CONVERT}")
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            f"{path} holds arrays of NumPy (.npz), not tensors: save them with "
            "`torch.save({name: torch.from_numpy(array) for name, array in np.load(path).items()}, ...)`"
        )
    _refuse_archive(path, "ZIP", names)


def _check_tar(path: Path, head: bytes) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member, _ in zip(archive, range(6), strict=False)]  # `some` shows five
    except (tarfile.TarError, EOFError):
        names = []
    if head.startswith(b"sys_info") or "sys_info" in names:
        raise InputError(
            f"{path} is in PyTorch's first format, a tar archive, which is not read safely: load it with "
            "`torch.load(path, weights_only=False)` where you trust it, and save its state dict anew"
        )
    _refuse_archive(path, "tar", names)


def _refuse_archive(path: Path, kind: str, names: Sequence[str]) -> None:
    weights = [name for name in names if name.lower().endswith(WEIGHTS)]
    held = some(weights or names) or "nothing"
    remedy = f"unpack it and give {weights[0]}" if weights else "give the file of weights itself"
    raise InputError(f"{path} is a {kind} archive that holds {held}, not what `torch.save` writes: {remedy}")


def _holds_only_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))


def _is_plain_pickle(head: bytes) -> bool:
    return len(head) > 32 and head[0] == 0x80 and 2 <= head[1] <= 5 and LEGACY_MAGIC not in head[:32]


def _is_msgpack(head: bytes) -> bool:
    """A map of a few entries whose first key is a short text."""
    return (
        len(head) > 2
        and 0x81 <= head[0] <= 0x8F
        and 0xA1 <= head[1] <= 0xBF
        and _is_word(head[2 : 2 + (head[1] & 0x1F)])
    )


def _is_caffe(head: bytes) -> bool:
    """The name of a net, then its layers in the newer or the older form."""
    if len(head) < 4 or head[0] != 0x0A:
        return False
    end = 2 + head[1]
    return _is_word(head[2:end]) and head[end:].startswith((b"\xa2\x06", b"\x12"))


def _is_word(raw: bytes) -> bool:
    return re.fullmatch(rb"[\x20-\x7e]+", raw) is not None


def _check_text(path: Path, head: bytes) -> None:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
        return
    kind = "text"
    if text.lstrip()[:1] in ("{", "["):
        kind = "JSON"
        _check_index(path)
    start = text.strip().partition("\n")[0][:60]
    raise InputError(
        f"{path} is {kind} ({start!r}), not a file of weights: give the weights, or download them again if a server "
        "answered this"
    )


def _check_index(path: Path) -> None:
    """Raises InputError for Hugging Face's index of weights that lie in several files."""
    try:
        files = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    raise InputError(
        f"{path} is an index of weights, not the weights: give {some(files)}"
        + (", saved together as one file" if len(files) > 1 else "")
    )
