"""The files of a run: `last.pt`, to resume from exactly, and its best weights, ready to export.

Files are written under a temporary name, flushed and renamed: whatever happens to the process, each is whole or absent.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from model_export.errors import InputError
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.disk import replacing, write_atomically
from service.runtime.model_card import Training

LAST = "last.pt"
BEST = "best.safetensors"
FORMAT = 3

Content = dict[str, Any]  # tensors, numbers, strings, lists and dicts: what `torch.load(weights_only=True)` reads


def save(folder: Path, content: Content) -> None:
    """Replaces the run's `last.pt`.

    Raises:
        OSError: it cannot be written; the previous one is still there.
    """
    buffer = io.BytesIO()  # on a full disk, `torch.save` to a file aborts in C++, where no exception can be caught
    torch.save({"format": FORMAT, **content}, buffer)
    write_atomically(folder / LAST, buffer.getbuffer())


def load(folder: Path) -> Content:
    """The content of a run's `last.pt`.

    Raises:
        InputError: there is none, it is damaged, or it is not a checkpoint of `train`.
    """
    path = folder / LAST
    if not path.is_file():
        raise InputError(f"{folder} holds no {LAST} to resume from: give the folder of a run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickle opcodes raise all kinds of exceptions
        fault = type(error).__name__
        raise InputError(f"{path} is damaged or not a checkpoint ({fault}): restore it or train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version's `train`: train again")
    return content


@contextmanager
def explain_write_errors(folder: Path, step: int) -> Iterator[None]:
    """Turns a failure to write one of the run's files into an `InputError` with a remedy."""
    try:
        yield
    except OSError as error:
        saved = (folder / LAST).exists()
        remedy = f"resume with `--resume {folder}`" if saved else "start again, perhaps with another --out"
        raise InputError(
            f"cannot write step {step} to {folder} ({error.strerror or error}): make room and {remedy}"
        ) from error


class BestWeights:
    """The weights of the `keep` best evaluations, as `step-<step>.safetensors`; the best also as `best.safetensors`."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.kept: list[tuple[int, float]] = []  # step and validation error of the files, best first

    def state_dict(self) -> list[list[float]]:
        return [list(entry) for entry in self.kept]

    def load_state_dict(self, kept: list[list[float]]) -> None:
        self.kept = [(int(step), error) for step, error in kept]

    def offer(
        self,
        step: int,
        error: float,
        state: dict[str, torch.Tensor],
        record: Record,
        mean_image: torch.Tensor | None,
    ) -> None:
        """Writes the weights if they are among the best. If errors are equal, the later weights are better.

        Raises:
            OSError: a file cannot be written.
        """
        ranked = sorted([*self.kept, (step, error)], key=lambda entry: (entry[1], -entry[0]))[: self.keep]
        if (step, error) not in ranked:
            return
        path = self.path(step)
        save_safetensors(state, path, record, mean_image)
        if ranked[0] == (step, error):
            with replacing(self.folder / BEST) as temporary:
                shutil.copyfile(path, temporary)
        dropped = set(self.kept) - set(ranked)
        self.kept = ranked
        for old, _ in dropped:
            self.path(old).unlink(missing_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"


def check_same_data(content: Content, training: Training, test_sha256: str | None, folder: Path) -> None:
    """Raises InputError unless the run of a checkpoint began on the same images.

    Args:
        training: with the digests of the images to train and to validate on.
        test_sha256: the digest of the test part; None without one.
    """
    began = Training.model_validate(content["training"])
    if (began.train.sha256, began.val.sha256, content["test_sha256"]) != (
        training.train.sha256,
        training.val.sha256,
        test_sha256,
    ):
        raise InputError(
            "the images or labels have changed since the run began: restore them, or start a new run with "
            f"--weights {folder / BEST}"
        )
