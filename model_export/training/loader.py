"""Batches for training and evaluation: read, decoded and augmented ahead of the network, in worker processes.

What an image looks like depends on the seed, the epoch and its index alone, and the order of the images on the seed and
the epoch; so a run is the same with any number of workers, and a resumed run goes on where it was.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.training.augment import Palette, colour_shift, erase, training_view
from model_export.training.recipe import Recipe
from service.card import Preprocessing
from service.errors import ImageProblem
from service.imaging import resize_and_crop, to_array

PREFETCH = 2  # batches per worker

# One stream of random numbers for each purpose.
ORDER, VIEW = 1, 2


class Batch(NamedTuple):
    """Images as they leave a worker."""

    images: Tensor  # uint8 (N, 3, size, size)
    labels: Tensor  # int64 (N,)
    colours: Tensor  # float32 (N, 3): the shift of each image's colours, 0 to 255


class Key(NamedTuple):
    """One image of one epoch."""

    epoch: int
    image: int
    size: int  # of the view, pixels


class Plan(NamedTuple):
    """Which images make up which step. Every epoch is a new order of all images, less a remainder of a batch."""

    images: int  # of the training set
    recipe: Recipe
    steps: int  # of the whole run
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def batch_size(self) -> int:
        """Over all processes: the recipe's, or all images of a set smaller than that."""
        return min(self.recipe.batch_size, self.images)

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    def keys(self, step: int) -> list[Key]:
        """The images that this process sees in a step: every `world`-th of the batch, so that together they see it."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images)
        batch = order[position * self.batch_size : (position + 1) * self.batch_size]
        return [Key(epoch, int(index), self.size(step)) for index in batch[self.rank :: self.world]]

    def size(self, step: int) -> int:
        """The side of a step's images: `first_size`, where there is one, up to the first milestone."""
        r = self.recipe
        if r.first_size is not None and step < r.milestone_steps(self.steps)[0]:
            return r.first_size
        return r.size


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(images)


class _TrainingImages(TorchDataset[tuple[Tensor, int, Tensor]]):
    """Augmented images by `Key`."""

    def __init__(self, dataset: Dataset, recipe: Recipe, palette: Palette, seed: int) -> None:
        self.dataset, self.recipe, self.palette, self.seed = dataset, recipe, palette, seed
        r, g, b = np.rint(palette.mean).astype(int).tolist()
        # of borders and erased parts: zero, once the mean is subtracted
        self.fill = (r, g, b)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, Tensor]:
        rng = np.random.default_rng((self.seed, VIEW, key.epoch, key.image))
        recipe = self.recipe
        image = read_image(self.dataset, key.image)
        pixels = to_array(training_view(image, recipe, key.size, self.fill, rng))
        if recipe.erasing and rng.random() < recipe.erasing:
            erase(pixels, self.fill, rng)
        shift = colour_shift(self.palette, recipe.pca_colour, rng) if recipe.pca_colour else np.zeros(3, np.float32)
        return torch.from_numpy(pixels), int(self.dataset.labels[key.image]), torch.from_numpy(shift)


class _EvaluationImages(TorchDataset[tuple[Tensor, int]]):
    """Images by index, as the service would see them."""

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        view = resize_and_crop(read_image(self.dataset, index), self.preprocessing)
        return torch.from_numpy(to_array(view)), int(self.dataset.labels[index])


def read_image(dataset: Dataset, index: int) -> Image.Image:
    """`dataset.image(index)`. Raises InputError, with the image's name, where it has become unreadable."""
    try:
        return dataset.image(index)
    except (ImageProblem, OSError) as error:
        raise InputError(
            f"{dataset.title(index)} cannot be read any more ({error}): put it back and resume, or train without it"
        ) from error


def training_batches(
    dataset: Dataset, plan: Plan, palette: Palette, *, first_step: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """The batches of the steps from `first_step` to the end of the run, one after the other, across epochs.

    Args:
        workers: processes that read ahead; with 0 the caller reads.
        pin: copy batches to page-locked memory, from which a GPU fetches them while it computes.
    """
    loader = _Loader(
        _TrainingImages(dataset, plan.recipe, palette, plan.seed),
        batch_sampler=_Steps(plan, first_step),
        **_reading(workers, pin),
    )
    for pixels, labels, colours in _with_plain_errors(loader):
        yield Batch(pixels, labels, colours)


def evaluation_batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    workers: int,
    pin: bool,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 `(N, 3, crop, crop)` and labels `(N,)` of every `world`-th image, in order, each once."""
    loader = _Loader(
        _EvaluationImages(dataset, preprocessing),
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world),
        **_reading(workers, pin),
    )
    yield from _with_plain_errors(loader)


class _Steps:
    """The keys of every step, as a batch sampler."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.plan, self.first = plan, first

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.plan.keys(step) for step in range(self.first, self.plan.steps))


class _Loader(DataLoader[Any]):
    def check_worker_number_rationality(self) -> None:
        """Says nothing: whoever asks for more workers than cores means it."""


def _reading(workers: int, pin: bool) -> dict[str, Any]:
    generator = torch.Generator()  # the loader draws from it, which nothing here needs: not from the caller's
    if workers == 0:
        return {"num_workers": 0, "pin_memory": pin, "generator": generator}
    # Not forked from this process: its threads (OpenMP's, CUDA's) would not be there in the child.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return {
        "num_workers": workers,
        "pin_memory": pin,
        "generator": generator,
        "prefetch_factor": PREFETCH,
        "multiprocessing_context": context,
        "worker_init_fn": _begin_work,
    }


def _with_plain_errors(loader: DataLoader[Any]) -> Iterator[Any]:
    """Takes the worker's traceback out of an error that has a sentence for the user."""
    try:
        yield from loader
    except InputError as error:
        # Its frames hold the workers, which would be told to end only when the garbage is collected: too late, and for
        # each of them there would be a wait of five seconds.
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error.with_traceback(None)


def _begin_work(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the trainer decides what it means
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_trainer, name="end-with-the-trainer", daemon=True).start()


def _end_with_the_trainer() -> None:
    """Ends this worker once the trainer has gone, however it went.

    The loader's own watch looks for a new parent, but these workers are children of the fork server, which in turn
    waits for them: a trainer that was killed would leave them all behind.
    """
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)
