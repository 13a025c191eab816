"""The plan of a run: how many steps it has and which images each of them sees."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from model_export.errors import InputError
from model_export.training.balance import balanced_epoch
from model_export.training.distributed import Processes
from model_export.training.recipe import Recipe

# Streams of random numbers: generators are seeded with (seed, stream, ...), so each purpose has numbers of its own.
ORDER, VIEW, MIX = 1, 2, 3


class Key(NamedTuple):
    """One image of one epoch."""

    epoch: int
    image: int
    size: int  # of the view, pixels
    time: int = 0  # how often the image has come in this epoch before: each time it looks different


class Plan(NamedTuple):
    """Which images make up which step.

    Every epoch draws as many images as there are, and leaves out a last incomplete batch.
    """

    images: int  # size of the training set
    recipe: Recipe
    steps: int  # of the whole run
    seed: int
    rank: int = 0
    world: int = 1
    labels: bytes = b""  # int64 (images,), for balanced sampling; as bytes, which know their hash

    @classmethod
    def of(cls, recipe: Recipe, labels: np.ndarray, seed: int, processes: Processes) -> Plan:
        """This process's plan of a run.

        Args:
            labels: int64 (N,), of the training set; multi-label: float32 (N, classes).

        Raises:
            InputError: a batch cannot be divided among the processes and the parts of `accumulate`; or images have
                several labels, and sampling is to be balanced.
        """
        if recipe.sampling == "balanced" and labels.ndim == 2:
            raise InputError(
                "images with several labels cannot be drawn equally often for each class: leave `--sampling balanced` "
                "out; `--class-weights balanced` makes up for rare classes"
            )
        known = labels.tobytes() if recipe.sampling == "balanced" else b""
        plan = cls(len(labels), recipe, 0, seed, processes.rank, processes.world, known)
        if plan.batch_size % (plan.world * recipe.accumulate):
            raise InputError(
                f"a batch of {plan.batch_size} images cannot be divided among {plan.world} processes and "
                f"{recipe.accumulate} parts: choose another --batch-size"
            )
        return plan._replace(steps=recipe.steps or max(1, round((recipe.epochs or 0) * plan.steps_per_epoch)))

    @property
    def batch_size(self) -> int:
        """Images per step over all processes: the recipe's batch size, or the whole set if that is smaller."""
        return min(self.recipe.batch_size, self.images)

    @property
    def micro_batch_size(self) -> int:
        """Images that one process puts through the network at once."""
        return max(1, self.batch_size // (self.world * self.recipe.accumulate))

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends after `step` steps."""
        return step == self.steps or (step > 0 and step % self.steps_per_epoch == 0)

    def keys(self, step: int) -> list[Key]:
        """The images that this process sees in a step: every `world`-th of the batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images, self.labels)
        batch = order[position * self.batch_size : (position + 1) * self.batch_size]
        size = self.size(step)
        return [Key(epoch, image, size, time) for image, time in batch[self.rank :: self.world].tolist()]

    def size(self, step: int) -> int:
        """The side of a step's images, pixels: `first_size`, if the recipe has one, until the first milestone."""
        r = self.recipe
        if r.first_size is not None and step < r.milestone_steps(self.steps)[0]:
            return r.first_size
        return r.size

    def extra_epoch(self, images: int) -> tuple[Plan, int]:
        """A plan for up to `images` images of an epoch after the run, the same in every process; and its first step."""
        first_step = self.steps_per_epoch * -(-self.steps // self.steps_per_epoch)
        batches = max(1, min(images, self.images) // self.batch_size)
        recipe = self.recipe.model_copy(update={"first_size": None})  # the run ends at full size
        return self._replace(recipe=recipe, steps=first_step + batches, rank=0, world=1), first_step


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int, labels: bytes) -> np.ndarray:
    """The images of an epoch, and how often each has come before: int64 (images, 2)."""
    rng = np.random.default_rng((seed, ORDER, epoch))
    if labels:
        return np.stack(balanced_epoch(np.frombuffer(labels, np.int64), rng), axis=1)
    return np.stack([rng.permutation(images), np.zeros(images, np.int64)], axis=1)
