"""Batches of images, read, decoded and augmented by worker processes ahead of the network.

What an image looks like depends on the seed, the epoch and its index alone (and on how often it has come before in this
epoch, with balanced sampling); so a run is the same with any number of workers, and a resumed run continues with the
batches of an uninterrupted one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model_export.datasets.base import Dataset, explain_unreadable
from model_export.errors import InputError
from model_export.training.augment import Palette, colour_shift, erase, training_view
from model_export.training.plan import VIEW, Key, Plan
from model_export.training.recipe import Recipe
from service.runtime.images.resizing import network_input, to_array, with_channels
from service.runtime.preprocessing import Preprocessing

PREFETCH = 2  # batches per worker

Label = int | Tensor  # a class id; multi-label: float32 (classes,)


class Batch(NamedTuple):
    """Images as they leave a worker."""

    images: Tensor  # uint8 (N, channels, height, width)
    labels: Tensor  # int64 (N,); multi-label: float32 (N, classes)
    colours: Tensor | None = None  # float32 (N, 3), 0 to 255: the colour shift of each image, with `pca_colour`


class WorkerDied(InputError):
    """A process that reads images has ended."""


class _TrainingImages(TorchDataset[tuple[Tensor, Label, Tensor]]):
    """Augmented images by `Key`."""

    def __init__(self, dataset: Dataset, recipe: Recipe, palette: Palette, seed: int) -> None:
        self.dataset, self.recipe, self.palette, self.seed = dataset, recipe, palette, seed
        r, g, b = np.rint(palette.mean).astype(int).tolist()
        self.fill = (r, g, b)  # of borders and erased rectangles: zero, once the mean is subtracted

    def __getitem__(self, key: Key) -> tuple[Tensor, Label, Tensor]:
        again = (key.time,) if key.time else ()
        rng = np.random.default_rng((self.seed, VIEW, key.epoch, key.image, *again))
        recipe = self.recipe
        image = read_image(self.dataset, key.image, recipe.window)
        pixels = to_array(training_view(image, recipe, key.size, self.fill, rng))
        if recipe.erasing and rng.random() < recipe.erasing:
            erase(pixels, self.fill, rng)
        pixels = with_channels(pixels, recipe.channels)
        shift = colour_shift(self.palette, recipe.pca_colour, rng) if recipe.pca_colour else np.zeros(3, np.float32)
        return torch.from_numpy(pixels), _label(self.dataset, key.image), torch.from_numpy(shift)


class _EvaluationImages(TorchDataset[tuple[Tensor, Label]]):
    """Images by index, preprocessed as the service does it."""

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        image = read_image(self.dataset, index, self.preprocessing.window)
        return torch.from_numpy(network_input(image, self.preprocessing)), _label(self.dataset, index)


def _label(dataset: Dataset, index: int) -> Label:
    return torch.from_numpy(dataset.labels[index]) if dataset.multi_label else int(dataset.labels[index])


def read_image(dataset: Dataset, index: int, window: tuple[int, int] | None = None) -> Image.Image:
    """`dataset.image(index, window)`.

    Raises:
        InputError: the image has become unreadable.
    """
    with explain_unreadable(dataset, index, "put it back and resume, or train without it"):
        return dataset.image(index, window)


def training_batches(
    dataset: Dataset, plan: Plan, palette: Palette, *, first_step: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """The batches of the steps from `first_step` to the end of the plan.

    Args:
        workers: processes that read ahead; with 0 the caller reads.
        pin: copy batches to page-locked memory, from which a GPU fetches them while it computes.

    Raises:
        InputError: an image has become unreadable, or a worker has died (`WorkerDied`).
    """
    loader = _Loader(
        _TrainingImages(dataset, plan.recipe, palette, plan.seed),
        batch_sampler=_Steps(plan, first_step),
        **_loader_options(workers, pin),
    )
    for images, labels, colours in explain_worker_errors(loader):
        yield Batch(images, labels, colours if plan.recipe.pca_colour else None)


def evaluation_batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    workers: int,
    pin: bool,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every `world`-th image from `rank` on, in order, each once: images are `(N, channels, height, width)`.

    Raises:
        InputError: as `training_batches`.
    """
    loader = _Loader(
        _EvaluationImages(dataset, preprocessing),
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world),
        **_loader_options(workers, pin),
    )
    for images, labels in explain_worker_errors(loader):
        yield Batch(images, labels)


class _Steps:
    """A batch sampler: the keys of each step."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.plan, self.first = plan, first

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.plan.keys(step) for step in range(self.first, self.plan.steps))


class _Loader(DataLoader[Any]):
    def check_worker_number_rationality(self) -> None:
        """Does not warn: more workers than cores are always asked for on purpose."""


def _loader_options(workers: int, pin: bool) -> dict[str, Any]:
    generator = torch.Generator()  # the loader draws a seed, unused here: not from the caller's generator
    if workers == 0:
        return {"num_workers": 0, "pin_memory": pin, "generator": generator}
    # Not forked from this process: a fork lacks the threads of OpenMP and CUDA.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return {
        "num_workers": workers,
        "pin_memory": pin,
        "generator": generator,
        "prefetch_factor": PREFETCH,
        "multiprocessing_context": context,
        "worker_init_fn": _start_worker,
    }


def explain_worker_errors(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches; a worker's error becomes one sentence, without the worker's traceback."""
    try:
        yield from loader
    except InputError as error:
        # The traceback's frames would keep the workers alive until garbage is collected, when it is too late to tell
        # them to end: five seconds of waiting for each.
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error.with_traceback(None)
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        # Which one depends on the moment: a worker may die while its last batch is fetched from its shared memory.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WorkerDied(
            f"a process that reads images ended ({reason}): give a container more shared memory (--shm-size) or use "
            "--workers 0, and resume the run"
        ) from error


def _start_worker(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the trainer handles it
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_trainer, name="exit-with-trainer", daemon=True).start()


def _exit_with_trainer() -> None:
    """Ends this worker once the trainer has ended, even if it was killed.

    PyTorch's own watchdog checks for a new parent process, but the parent of these workers is the fork server, and that
    waits for them: if the trainer is killed, all of them would stay.
    """
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)
