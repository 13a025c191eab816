"""Reads and writes `.safetensors` files, with a record in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model_export.errors import InputError
from model_export.weights.file_kinds import COPY
from model_export.weights.label_formats import NAME_KEYS
from model_export.weights.record import MEAN_IMAGE, Record
from service.runtime.disk import write_atomically

WRITER = "resnet-service"  # the `writer` in the metadata of our own files


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file by name, and the entries of its metadata that may hold a record or class names.

    Raises:
        InputError: the file is not complete, or it is ours and its metadata is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a complete safetensors file ({error}): {COPY}") from error
    for name in {*Record.model_fields, *NAME_KEYS} & metadata.keys():
        try:
            content[name] = json.loads(metadata[name])
        except (json.JSONDecodeError, RecursionError) as error:
            # In a file of another writer the entry could mean anything.
            if metadata.get("writer") == WRITER:
                raise InputError(f"{path} has damaged metadata ({error}): save it again from its training") from error
    return content


def save_safetensors(
    tensors: Mapping[str, Tensor], path: Path, record: Record, mean_image: Tensor | None = None
) -> None:
    """Writes a state dict with its record; `path` is never seen half-written.

    The same tensors and the same record give the same bytes.

    Args:
        mean_image: float32 `(3, crop, crop)` in 0 to 255, for `record.preprocessing.mean_image`.

    Raises:
        OSError: the file cannot be written.
    """
    # safetensors requires contiguous tensors; those of a channels-last net are not.
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if mean_image is not None:
        content[MEAN_IMAGE] = mean_image
    fields = {name: value for name, value in record.model_dump(mode="json").items() if value is not None}
    metadata = {"format": "pt", "writer": WRITER} | {name: json.dumps(value) for name, value in fields.items()}
    # safetensors' own `save_file` hides why it failed, and makes the file readable for its owner only.
    write_atomically(path, _with_sorted_metadata(save(content, metadata)))


def _with_sorted_metadata(file: bytes) -> bytes:
    """The same file with its metadata sorted by name: safetensors writes them in an order of the process's own.

    The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes, the header as JSON,
    padded with blanks, then the tensors, whose offsets count from the end of the header.
    """
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(file)[start:]))
