"""The training loop: trains one network by one recipe on one data set.

The seed decides everything: the first weights, the order and the look of the images, mixing. A run that was stopped and
resumed ends, on one CPU, with the weights of an uninterrupted one, bit for bit.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import update_bn

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.training import checkpoint
from model_export.training.augment import mix
from model_export.training.averaging import decay_at, update_average
from model_export.training.callbacks import Callback, Callbacks, settings_by_name
from model_export.training.checkpoint import BestWeights
from model_export.training.distributed import Processes, data_parallel, gradients_shared, synchronise_batch_norms
from model_export.training.feed import Feed
from model_export.training.history import Row, TensorBoard, stalled, summary, write_history
from model_export.training.loader import Batch, WorkerDied
from model_export.training.loss import Loss
from model_export.training.machine import Machine
from model_export.training.plan import MIX, Plan
from model_export.training.provenance import describe_training
from model_export.training.recipe import Recipe
from model_export.training.start import Start
from model_export.training.state import RunState
from model_export.training.stopping import Stopped, StopSignal
from model_export.training.validation import VALIDATION
from service.runtime.progress import Progress

log = logging.getLogger(__name__)

SHOW_EVERY_S = 1.0  # reading the loss makes the CPU wait for the GPU


class Trainer:
    """One run.

    Args:
        folder: the run's folder, which exists; receives checkpoints, weights, `metrics.csv` and TensorBoard events.
        about: plain data to store in the checkpoint for whoever resumes the run.
        callbacks: follow the run. The end of it is told by `report_run`, once the best weights are evaluated.
        resumed: the content of the run's checkpoint.

    Raises:
        InputError: the batch cannot be divided among the processes, or `data` is not what the resumed run began with.
    """

    def __init__(
        self,
        start: Start,
        recipe: Recipe,
        data: Data,
        folder: Path,
        *,
        seed: int = 0,
        machine: Machine = Machine(),  # noqa: B008 (frozen)
        processes: Processes = Processes(0, 1, torch.device("cpu")),  # noqa: B008 (a tuple)
        about: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        resumed: checkpoint.Content | None = None,
        shown: bool = True,
    ) -> None:
        self.start, self.recipe, self.data, self.folder = start, recipe, data, folder
        self.seed, self.machine, self.processes, self.about = seed, machine, processes, about or {}
        self.callbacks = Callbacks(callbacks if processes.first else ())
        self.shown, self.device = shown and processes.first, processes.device
        self.dtype = machine.autocast_dtype(self.device)
        self.autocast = torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)
        self.plan = Plan.of(recipe, data.train.labels, seed, processes)
        self.feed = Feed(data, start, self.plan, machine, self.device)
        self.stop = StopSignal(processes)

        self.net = start.net
        if recipe.sync_bn and processes.world > 1:
            synchronise_batch_norms(self.net)
        self.frozen = self.net.modules_up_to(recipe.freeze) if recipe.freeze else []
        for module in self.frozen:
            module.requires_grad_(False)
        self.net.to(self.device, memory_format=machine.memory_format)  # type: ignore[call-overload]

        self.loss = Loss(recipe, data.train.labels, self.net.architecture.num_classes, self.device)
        best = BestWeights(folder, machine.keep)
        self.state = RunState.begin(self.net, self.plan, best, self.device, scaled=self.dtype is torch.float16)
        self.test_sha256 = data.test.digest() if data.test else None
        self.training = describe_training(
            recipe, data, seed=seed, started_from=start.weights, device=self.device, dtype=self.dtype,
            processes=processes.world,
        )  # fmt: skip
        if resumed is not None:
            checkpoint.check_same_data(resumed, self.training, self.test_sha256, folder)
            self.state.restore(resumed, processes)

        self.model = data_parallel(self.net, processes)
        if machine.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def run(self) -> list[Row]:
        """Trains to the end of the recipe, or until it stops early; returns the rows of all evaluations.

        Raises:
            Stopped: by SIGTERM or Ctrl-C, after a checkpoint has been written.
            InputError: the loss is not finite, an image has become unreadable, a worker has died, or the disk is full.
        """
        try:
            with self.stop.caught():
                return self._run()
        finally:
            # DistributedDataParallel must go while Python still holds the process group. As the group's last owner it
            # would destroy it with the GIL held, and wait forever for gloo's threads, which need the GIL.
            self.model = self.net

    def _run(self) -> list[Row]:
        state, plan, size = self.state, self.plan, self.plan.batch_size
        board = TensorBoard(self.folder, state.rows) if self.processes.first else None
        self.callbacks.on_run_begin(self.folder, settings_by_name(self.net, self.recipe, self.seed, self.about))
        batches = self._stoppable(self.feed.training(state.step))
        saved_at, saved_step = time.monotonic(), state.step
        shown_at, figures = -math.inf, dict[str, float]()
        self._set_training()
        with Progress(
            "training", plan.steps * size, unit="image", initial=state.step * size, shown=self.shown
        ) as progress:
            while True:
                save_due = time.monotonic() - saved_at >= 60 * self.machine.checkpoint_minutes
                stop, save = self.stop.agreed(state.step, save_due)
                if stop and state.step < plan.steps:
                    self._save_and_stop()
                if plan.ends_epoch(state.step) and (not state.rows or state.rows[-1].step < state.step):
                    row = self._evaluate()
                    save = True
                    if board:
                        board.add(row)
                    self.callbacks.on_epoch_end(row._asdict())
                    if self.shown:
                        log.info(summary(row))
                if save and state.step > saved_step:
                    self._save()
                    saved_at, saved_step = time.monotonic(), state.step
                if state.step == plan.steps or self._stopped_early():
                    break

                began = time.monotonic()
                loss, error = self.train_step(next(batches))
                state.step += 1
                now = time.monotonic()
                state.training_seconds += now - began
                state.seconds += now - began
                if now - shown_at >= SHOW_EVERY_S:
                    shown_at = now
                    figures = {"loss": self._finite(loss.item()), "accuracy": 1 - error.item()}
                progress.advance(size, **figures)
        if board:
            board.close()
        return state.rows

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; the loss and the error (`Loss.error`) over this process's batch."""
        state, recipe = self.state, self.recipe
        for group in state.optimizer.param_groups:
            group["lr"] = state.schedule.lr(state.step)
        x, labels = self.feed.to_device(batch)  # (N, 3, size, size); (N,), or multi-label (N, classes)
        y = labels if self.loss.multi_label else F.one_hot(labels, self.net.architecture.num_classes).float()
        x, y = mix(x, y, recipe, np.random.default_rng((self.seed, MIX, state.step, self.processes.rank)))

        state.optimizer.zero_grad(set_to_none=True)
        loss, error = torch.zeros(2, device=self.device)
        parts = list(zip(x.chunk(recipe.accumulate), y.chunk(recipe.accumulate), strict=True))
        for i, (part_x, part_y) in enumerate(parts):
            with gradients_shared(self.model, last_part=i == len(parts) - 1):
                with self.autocast:
                    logits = self.model(part_x)  # (N / accumulate, classes)
                part_loss = self.loss(logits.float(), part_y) / len(parts)
                state.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
            error += self.loss.error(logits, part_y) / len(parts)
        state.scaler.step(state.optimizer)
        state.scaler.update()

        if state.ema is not None and recipe.ema is not None:
            update_average(state.ema, self.net, decay_at(state.step, recipe.ema))
        state.sums += torch.stack([loss.double(), error.double(), torch.ones_like(loss).double()]) * len(labels)
        if state.schedule.warming_up:
            (total,) = self.processes.total(error.item())
            state.schedule.trained(total / self.processes.world)
        return loss, error

    def recompute_batch_norms(self, net: torch.nn.Module) -> None:
        """Takes batch-norm statistics anew, from images of an epoch after the run, if the recipe has it so."""
        if self.recipe.recompute_bn and not self.recipe.freeze:
            extra = self._stoppable(self.feed.extra(self.recipe.recompute_bn))
            with self.autocast:
                update_bn((self.feed.to_device(batch)[0] for batch in extra), net)

    def _evaluate(self) -> Row:
        """Ends a stretch of training: validates, adds a row, and keeps the weights if they are among the best."""
        began = time.monotonic()
        state, net = self.state, self.state.evaluated_net
        if state.step == self.plan.steps:
            self.recompute_batch_norms(net)
        self.processes.share_buffers(net)
        batches = map(self.feed.to_device, self._stoppable(self.feed.validation()))
        val = VALIDATION[self.loss.multi_label](net, batches, self.autocast, self.processes)
        self._set_training()
        loss, wrong, images = self.processes.total(*state.sums.tolist())
        row = Row(
            step=state.step,
            epoch=state.step / self.plan.steps_per_epoch,
            lr=state.schedule.lr(state.step - 1),
            train_loss=self._finite(loss / images),
            train_error=wrong / images,
            val_loss=val.loss,
            val_error=val.error,
            val_top5_error=val.top5_error,
            images_per_s=images / state.training_seconds,
            seconds=state.seconds,
        )
        state.rows.append(row)
        state.sums.zero_()
        state.training_seconds = 0.0
        state.schedule.evaluated(row.val_error)
        if self.processes.first:
            with checkpoint.explain_write_errors(self.folder, state.step):
                record = self.start.record.model_copy(update={"training": self.training})
                state.best.offer(row.step, row.val_error, net.state_dict(), record, self.start.mean_image)
        state.seconds += time.monotonic() - began
        return row

    def _stopped_early(self) -> bool:
        """Whether the last evaluation ends the run. The rows decide: all processes and a resumed run agree."""
        patience, rows = self.recipe.early_stopping, self.state.rows
        if patience is None or not rows or rows[-1].step < self.state.step or stalled(rows) < patience:
            return False
        if self.shown:
            log.info("stopped early: no lower validation error in %d epochs", patience)
        return True

    def _stoppable(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on until the run can stop. A resumed run repeats an evaluation that is cut short here."""
        try:
            for batch in batches:
                if self.stop.immediate:
                    self._save_and_stop()
                yield batch
        except WorkerDied:
            if self.stop.immediate:  # the worker has received the signal, too
                self._save_and_stop()
            raise

    def _set_training(self) -> None:
        self.net.train()
        for module in self.frozen:
            module.eval()  # frozen batch norms keep their statistics

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            step = self.state.step
            raise InputError(
                f"the loss became {loss} near step {step}: the learning rate {self.state.schedule.lr(step)} is too "
                f"high for this network and data; try --lr {self.recipe.lr / 10:g}"
            )
        return loss

    def _save_and_stop(self) -> NoReturn:
        self._save()
        raise Stopped(self.stop.signum or signal.SIGTERM, self.state.step)

    def _save(self) -> None:
        """Writes the checkpoint and `metrics.csv`. All processes take part."""
        state = self.state.content(self.processes)
        if not self.processes.first:
            return
        content = {
            **self.start.content(),
            **state,
            "recipe": self.recipe.model_dump(mode="json"),
            "machine": asdict(self.machine),
            "about": self.about,
            "seed": self.seed,
            "training": self.training.model_dump(mode="json"),
            "test_sha256": self.test_sha256,
        }
        with checkpoint.explain_write_errors(self.folder, self.state.step):
            checkpoint.save(self.folder, content)
            write_history(self.folder, self.state.rows)
