"""What a run leaves on disk: `last.pt`, from which it resumes exactly, and weights that are ready to be exported.

Every file is whole or absent, whatever happens to the process: it is written under a temporary name, flushed, renamed.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import torch

from model_export.datasets.base import Data
from model_export.disk import write_whole, written_whole
from model_export.errors import InputError
from model_export.weight_files import Record, save_safetensors

LAST = "last.pt"
BEST = "best.safetensors"
FORMAT = 1

Content = dict[str, Any]  # what `torch.load(weights_only=True)` reads: tensors, numbers, texts, lists and dicts


def save(folder: Path, content: Content) -> None:
    """Replaces the run's `last.pt`.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    buffer = io.BytesIO()  # `torch.save` to a full disk aborts in C++; writing bytes raises what one can handle
    torch.save({"format": FORMAT, **content}, buffer)
    write_whole(folder / LAST, buffer.getbuffer())


def load(folder: Path) -> Content:
    """The content of a run's `last.pt`.

    Raises:
        InputError: there is none, or it is none of ours.
    """
    path = folder / LAST
    if not path.is_file():
        raise InputError(f"{folder} holds no {LAST}, so there is nothing to resume: give the folder of a run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes, read as opcodes, raise whatever they happen to mean
        fault = type(error).__name__
        raise InputError(f"{path} is damaged or no checkpoint ({fault}): restore it or train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version's `train`: train anew")
    return content


class BestWeights:
    """The weights of the best evaluations, as `step-<step>.safetensors`; the very best also as `best.safetensors`.

    Args:
        kept: [step, error] of what is on disk, best first; from a checkpoint.
    """

    def __init__(self, folder: Path, keep: int, kept: list[tuple[int, float]]) -> None:
        self.folder, self.keep, self.kept = folder, keep, kept

    def offer(
        self,
        step: int,
        error: float,
        state: dict[str, torch.Tensor],
        record: Record,
        mean_image: torch.Tensor | None,
    ) -> None:
        """Stores the weights if they are among the best; of equals, the later ones."""
        ranked = sorted([*self.kept, (step, error)], key=lambda entry: (entry[1], -entry[0]))[: self.keep]
        if (step, error) not in ranked:
            return
        path = self.path(step)
        save_safetensors(state, path, record, mean_image)
        if ranked[0] == (step, error):
            with written_whole(self.folder / BEST) as temporary:
                shutil.copyfile(path, temporary)
        dropped = set(self.kept) - set(ranked)
        self.kept = ranked
        for old, _ in dropped:
            self.path(old).unlink(missing_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"


def fingerprint(data: Data) -> str:
    """A digest of what the images are called and labelled: a run resumes on the same data only."""
    digest = hashlib.sha256()
    for part in data:
        digest.update(repr((part.classes, [part.title(i) for i in range(len(part))])).encode())
        digest.update(part.labels.tobytes())
    return digest.hexdigest()
