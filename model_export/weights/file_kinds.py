"""Recognises files that are not weight files, by content; the error says what each is and what to do."""

from __future__ import annotations

import codecs
import json
import re
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from model_export.errors import InputError, shortlist
from model_export.paths import url_in

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
PREFERRED_NAMES = ("best.safetensors", "model.safetensors", "pytorch_model.bin")  # our training and Hugging Face

CONVERT = "convert it to PyTorch first"
PICTURE = "pass the weights here; pictures belong in a dataset"
COPY = "copy or download it again"

# Offset, bytes found there, the kind of file that they mark, and the remedy.
SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
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
    (0, b"\x89HDF", "an HDF5 file of Keras or Caffe, not a PyTorch weight file", CONVERT),
    (0, b"GGUF", "a GGUF file of llama.cpp, not a ResNet's weight file", "pass PyTorch weights"),
    (4, b"TFL3", "a TensorFlow Lite model, not a weight file", "pass the PyTorch weights it was made from"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel, not a weight file", CONVERT),
    # The IR version, 3 and later, then the field of the producer's name, the graph or the operator sets.
    *(
        (0, bytes((8, ir, field)), "an ONNX model, not a weight file", "pass the PyTorch weights it was made from")
        for ir in range(3, 20)
        for field in (18, 58, 66)
    ),
    (
        0,
        b"\x93NUMPY",
        "a NumPy array, not a weight file",
        "save a state dict, `torch.save({name: tensor, ...}, ...)`",
    ),
    *(
        (0, signature, f"a {kind} picture, not a weight file", PICTURE)
        for signature, kind in ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"))
    ),
    (8, b"WEBP", "a WebP picture, not a weight file", PICTURE),
    (0, b"%PDF", "a PDF document, not a weight file", "pass the weights"),
)

MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # starts a `torch.save` file that is not a ZIP archive


def check_path(path: Path) -> None:
    """Raises InputError if there is no file to read, and suggests what to pass instead."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if url := url_in(path):
            raise InputError(f"{url} is a URL, not a file: download it and pass the file") from None
        raise InputError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(explain_folder(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe or device, not a regular file: save its content to a file and pass that")


def explain_folder(path: Path) -> str:
    """Which file to give where a folder was given as weights."""
    # Path("") equals Path(".").
    subject = "the path of the weights is empty or the current folder" if path == Path() else f"{path} is a folder"
    try:
        inside = sorted(
            (file.name for file in path.iterdir() if file.is_file() and file.name.lower().endswith(SUFFIXES)),
            key=lambda name: (name not in PREFERRED_NAMES, name),
        )
    except OSError as error:
        return f"{subject} that cannot be read: {error.strerror}"
    if not inside:
        return f"{subject}, without weights ({', '.join(SUFFIXES)}) in it: pass the weight file itself"
    best = str(path / inside[0])
    return f"{subject}: pass {best}" + (f", or another of {shortlist(inside)}" if len(inside) > 1 else "")


def check_kind(path: Path) -> bytes:
    """The first 512 bytes of a file.

    Raises:
        InputError: it is empty, or of a known kind that holds no weights.
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
        raise InputError(f"{path} is a web page, not a weight file: download the file from its direct URL")
    if head.startswith(b"PK"):
        _check_zip(path)
    elif head[257:262] == b"ustar" or head.startswith(b"sys_info"):
        _check_tar(path, head)
    elif not head.strip(b"\0") and _holds_only_zeros(path):
        raise InputError(f"{path} holds only zeros (its download or copy failed): {COPY}")
    elif _is_plain_pickle(head):
        raise InputError(
            f"{path} is a pickle that `torch.save` did not write, and unpickling it can run any code: if you trust it, "
            "load it and save its weights as tensors with `torch.save({name: torch.as_tensor(array), ...}, ...)`"
        )
    elif _is_msgpack(head):
        raise InputError(f"{path} is a msgpack file, as Flax writes them, not a PyTorch weight file: {CONVERT}")
    elif _is_caffe(head):
        raise InputError(f"{path} is a Caffe model, not a weight file: {CONVERT}")
    else:
        _check_text(path, head)
    return head


def begins_as_safetensors(head: bytes) -> bool:
    """Whether the bytes are the length of a JSON header (8 bytes, little-endian) and its opening brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER


def _check_zip(path: Path) -> None:
    """Raises InputError unless `torch.save` wrote the archive."""
    if not zipfile.is_zipfile(path):  # the table of contents is at the end
        raise InputError(f"{path} is truncated at {path.stat().st_size} bytes: {COPY}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise InputError(f"{path} is damaged: {COPY}") from None
    inner = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") for name in inner):
        raise InputError(
            f"{path} is a TorchScript program, not a weight file: save its weights with "
            "`torch.save(torch.jit.load(path).state_dict(), ...)`"
        )
    if "data.pkl" in inner or "data.pkl" in names:
        return
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        raise InputError(
            f"{path} is a torch.export program, not a weight file: save its weights with "
            "`torch.save(torch.export.load(path).state_dict, ...)`"
        )
    if "model.weights.h5" in names:
        raise InputError(f"{path} is a Keras model, not a PyTorch weight file: {CONVERT}")
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            f"{path} holds NumPy arrays (.npz), not tensors: save them with "
            "`torch.save({name: torch.from_numpy(array) for name, array in np.load(path).items()}, ...)`"
        )
    _refuse_archive(path, "ZIP", names)


def _check_tar(path: Path, head: bytes) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member, _ in zip(archive, range(6), strict=False)]  # `shortlist` shows five
    except (tarfile.TarError, EOFError):
        names = []
    if head.startswith(b"sys_info") or "sys_info" in names:
        raise InputError(
            f"{path} is in PyTorch's first format, a tar archive, which cannot be read safely: if you trust it, load "
            "it with `torch.load(path, weights_only=False)` and save its state dict"
        )
    _refuse_archive(path, "tar", names)


def _refuse_archive(path: Path, kind: str, names: Sequence[str]) -> None:
    weights = [name for name in names if name.lower().endswith(SUFFIXES)]
    members = shortlist(weights or names) or "nothing"
    remedy = f"unpack it and pass {weights[0]}" if weights else "pass the weight file itself"
    raise InputError(f"{path} is a {kind} archive that holds {members}, not a weight file: {remedy}")


def _holds_only_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))


def _is_plain_pickle(head: bytes) -> bool:
    return len(head) > 32 and head[0] == 0x80 and 2 <= head[1] <= 5 and LEGACY_MAGIC not in head[:32]


def _is_msgpack(head: bytes) -> bool:
    """Whether the bytes begin a map of up to 15 entries whose first key is a short text."""
    return (
        len(head) > 2
        and 0x81 <= head[0] <= 0x8F
        and 0xA1 <= head[1] <= 0xBF
        and _is_word(head[2 : 2 + (head[1] & 0x1F)])
    )


def _is_caffe(head: bytes) -> bool:
    """Whether the bytes are the name of a net, then its layers in the newer or the older format."""
    if len(head) < 4 or head[0] != 0x0A:
        return False
    end = 2 + head[1]
    return _is_word(head[2:end]) and head[end:].startswith((b"\xa2\x06", b"\x12"))


def _is_word(raw: bytes) -> bool:
    return re.fullmatch(rb"[\x20-\x7e]+", raw) is not None


def _check_text(path: Path, head: bytes) -> None:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be incomplete
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
        f"{path} is {kind} ({start!r}), not a weight file: pass the weights, or download them again if this is a "
        "server's answer"
    )


def _check_index(path: Path) -> None:
    """Raises InputError for Hugging Face's index of weights that are split over several files."""
    try:
        files = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    raise InputError(
        f"{path} is an index of weights, not the weights: pass {shortlist(files)}"
        + (", saved together as one file" if len(files) > 1 else "")
    )
