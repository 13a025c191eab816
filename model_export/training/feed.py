"""The batches of a run, and their transfer to the device, where they are normalised."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from model_export.datasets.base import Data
from model_export.nets.serving_graph import Normalise
from model_export.training.loader import Batch, evaluation_batches, training_batches
from model_export.training.machine import Machine
from model_export.training.plan import Plan
from model_export.training.start import Start
from model_export.training.validation import check_measurable


class Feed:
    """One process's share of the images of a run."""

    def __init__(self, data: Data, start: Start, plan: Plan, machine: Machine, device: torch.device) -> None:
        check_measurable(data.val)
        self.data, self.start, self.plan, self.machine, self.device = data, start, plan, machine, device
        self.normalise = Normalise(start.preprocessing, start.mean_image).to(device)

    def training(self, first_step: int) -> Iterator[Batch]:
        """The batches from a step to the end of the run."""
        return self._training(self.plan, first_step)

    def extra(self, images: int) -> Iterator[Batch]:
        """Batches of up to `images` images of an epoch after the run, the same in every process."""
        return self._training(*self.plan.extra_epoch(images))

    def validation(self) -> Iterator[Batch]:
        """This process's share of the validation set."""
        return evaluation_batches(
            self.data.val,
            self.start.preprocessing,
            self.plan.micro_batch_size,
            workers=self.machine.loader_workers if len(self.data.val) > self.plan.batch_size else 0,
            pin=self.device.type == "cuda",
            rank=self.plan.rank,
            world=self.plan.world,
        )

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 (N, 3, height, width), and labels, as in `Batch`."""
        images = batch.images.to(self.device, non_blocking=True).to(memory_format=self.machine.memory_format)
        if batch.colours is not None:
            images = images.float() + batch.colours.to(self.device, non_blocking=True)[:, :, None, None]
        return self.normalise(images), batch.labels.to(self.device, non_blocking=True)

    def _training(self, plan: Plan, first_step: int) -> Iterator[Batch]:
        return training_batches(
            self.data.train,
            plan,
            self.start.palette,
            first_step=first_step,
            workers=self.machine.loader_workers,
            pin=self.device.type == "cuda",
        )
