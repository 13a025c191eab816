"""The training loop: one network, one recipe, one data set, one folder.

A run is a function of its seed: the first weights, the order and the look of the images, and mixing come from it, so a
run that was cut and resumed ends, on one CPU, with the weights of an uncut one, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import update_bn

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.normalise import Normalise
from model_export.progress import Progress
from model_export.resnet import ResNet
from model_export.training import checkpoint
from model_export.training.augment import mix
from model_export.training.checkpoint import BestWeights
from model_export.training.distributed import Processes, synchronise_batch_norms
from model_export.training.history import Row, TensorBoard, write_history
from model_export.training.loader import Batch, Plan, evaluation_batches, training_batches
from model_export.training.recipe import Recipe
from model_export.training.schedule import Schedule
from model_export.training.start import Start
from model_export.weight_files import MEAN_IMAGE
from service.providers import usable_cores

log = logging.getLogger(__name__)

MIX = 3  # the stream of random numbers of mixup and CutMix; the loader's are 1 and 2
ADAM_BETA2 = 0.98  # runs here are short: 0.999 would remember the first gradients to the end
SHOW_EVERY_S = 1.0  # reading the loss makes a GPU wait
ASK_EVERY = 10  # steps, of several processes: whether one has been told to stop

DeviceChoice = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Machine:
    """How a run is computed; what is computed is the recipe's."""

    device: DeviceChoice = "auto"
    precision: Precision = "auto"
    """of the convolutions and products, by autocast. auto: bf16 where the hardware has it, else fp32"""
    channels_last: bool = True
    compile: bool = False
    """by torch.compile: a minute at the start, faster steps on a GPU"""
    workers: int | None = None
    """processes that read images; by default one for each core but one, at most 16, shared out among processes"""
    checkpoint_minutes: float = 10.0
    """between checkpoints; one is also written after every evaluation, and when the run is stopped"""
    keep: int = 3
    """best weights that are kept"""

    def autocast(self, device: torch.device) -> torch.dtype | None:
        """The type that products are computed in; None for float32."""
        if self.precision == "auto":
            native = (
                torch.cuda.is_bf16_supported(including_emulation=False)
                if device.type == "cuda"
                else has_native_bfloat16()
            )
            return torch.bfloat16 if native else None
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def loader_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this run on this machine, from torchrun
        return min(16, max(1, (usable_cores() - 1) // here))


class Stopped(Exception):
    """The run was asked to stop, and can be resumed."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # "bf16": ARM


class Trainer:
    """One run.

    Args:
        folder: exists; receives checkpoints, weights, `metrics.csv` and TensorBoard events.
        about: plain data that is stored in the checkpoint, for whoever resumes the run.
        resumed: the content of the run's checkpoint.
    """

    def __init__(
        self,
        start: Start,
        recipe: Recipe,
        data: Data,
        folder: Path,
        *,
        seed: int = 0,
        machine: Machine = Machine(),
        processes: Processes = Processes(0, 1, torch.device("cpu")),  # noqa: B008 (a tuple)
        about: dict[str, Any] | None = None,
        resumed: checkpoint.Content | None = None,
        shown: bool = True,
    ) -> None:
        self.start, self.recipe, self.data, self.folder = start, recipe, data, folder
        self.seed, self.machine, self.processes, self.about = seed, machine, processes, about or {}
        self.shown = shown and processes.first
        self.device = processes.device
        self.dtype = machine.autocast(self.device)

        per_epoch = Plan(len(data.train), recipe, 0, seed).steps_per_epoch
        steps = recipe.steps or max(1, round((recipe.epochs or 0) * per_epoch))
        self.plan = Plan(len(data.train), recipe, steps, seed, processes.rank, processes.world)
        if self.plan.batch_size % (processes.world * recipe.accumulate):
            raise InputError(
                f"a batch of {self.plan.batch_size} images cannot be divided among {processes.world} processes and "
                f"{recipe.accumulate} parts: choose another --batch-size"
            )
        self.schedule = Schedule(recipe, steps=steps, steps_per_epoch=per_epoch)

        self.net = start.net
        if recipe.sync_bn and processes.world > 1:
            synchronise_batch_norms(self.net)
        if recipe.freeze:
            self.net.requires_grad_(False)
            self.net.fc.requires_grad_(True)
        layout = torch.channels_last if machine.channels_last else torch.contiguous_format
        self.net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.net).eval() if recipe.ema is not None else None
        self.layout = layout
        self.normalise = Normalise(start.preprocessing, start.mean_image).to(self.device)
        self.optimizer = make_optimizer(self.net, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

        self.step = 0
        self.rows: list[Row] = []
        self.seconds = 0.0
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, wrong answers, images
        self.training_seconds = 0.0  # in which these sums came together
        kept: list[tuple[int, float]] = []
        if resumed is not None:
            kept = self._restore(resumed)
        self.best = BestWeights(folder, machine.keep, kept)
        self.fingerprint = checkpoint.fingerprint(data)
        if resumed is not None and resumed["fingerprint"] != self.fingerprint:
            raise InputError(
                "the images or labels are not those that the run began with: put them back, or begin a new run with "
                f"--weights {folder / checkpoint.BEST}"
            )

        self.model: nn.Module = self.net
        if processes.world > 1:
            self.model = DistributedDataParallel(
                self.net, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        if machine.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        self.stop_signal: int | None = None

    # ---- the run ----

    def run(self) -> list[Row]:
        """Trains to the end of the recipe; returns the rows of all evaluations.

        Raises:
            Stopped: by SIGTERM or Ctrl-C; a checkpoint is written.
            InputError: the loss is no longer a number, an image has become unreadable, or the disk is full.
        """
        try:
            return self._run()
        finally:
            # DistributedDataParallel has to go while Python still holds the process group. As the group's last owner it
            # would end it with the GIL held, and wait for ever for threads of gloo that want the GIL.
            self.model = self.net

    def _run(self) -> list[Row]:
        plan = self.plan
        board = TensorBoard(self.folder, self.rows) if self.processes.first else None
        batches = self._batches(plan, self.step)
        saved, saved_step = time.monotonic(), self.step
        with (
            self._signals(),
            Progress(
                "training",
                plan.steps * plan.batch_size,
                unit="image",
                initial=self.step * plan.batch_size,
                shown=self.shown,
            ) as progress,
        ):
            self._set_training()
            figures: dict[str, float] = {}
            figures_from = -math.inf
            while True:
                stop, due = self._asked(time.monotonic() - saved)
                if stop and self.step < plan.steps:
                    self._stop()
                if self._evaluation_is_due():
                    mark = time.monotonic()
                    row = self._evaluated()
                    self.seconds += time.monotonic() - mark
                    if board:
                        board.add(row)
                    self._report(row)
                    due = True
                if due and self.step > saved_step:
                    self._save()
                    saved, saved_step = time.monotonic(), self.step
                if self.step == plan.steps:
                    break
                mark = time.monotonic()
                loss, wrong = self.train_step(self._next(batches))
                self.step += 1
                now = time.monotonic()
                self.training_seconds += now - mark
                self.seconds += now - mark
                if now - figures_from >= SHOW_EVERY_S:
                    figures_from = now
                    figures = {"loss": self._finite(loss.item()), "accuracy": 1 - wrong.item()}
                progress.advance(plan.batch_size, **figures)
        if board:
            board.close()
        return self.rows

    def _evaluation_is_due(self) -> bool:
        """At the end of every epoch and of the run; a run that was stopped there has not done it yet."""
        at_end = self.step == self.plan.steps or (self.step > 0 and self.step % self.plan.steps_per_epoch == 0)
        return at_end and (not self.rows or self.rows[-1].step < self.step)

    def _asked(self, since_saved: float) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due; all processes give the same answer."""
        stop, due = self.stop_signal is not None, since_saved >= 60 * self.machine.checkpoint_minutes
        if self.processes.world > 1:
            if self.step % ASK_EVERY:
                return False, False
            stop, due = (asked > 0 for asked in self.processes.total(stop, due))
        return stop, due

    def _stop(self) -> NoReturn:
        self._save()
        raise Stopped(self.stop_signal or signal.SIGTERM, self.step)

    def _batches(self, plan: Plan, first_step: int) -> Iterator[Batch]:
        return training_batches(
            self.data.train,
            plan,
            self.start.palette,
            first_step=first_step,
            workers=self.machine.loader_workers,
            pin=self.device.type == "cuda",
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            return next(batches)
        except RuntimeError as error:  # a worker died
            if self.stop_signal is not None and self.processes.world == 1:  # of the signal that we were sent too
                self._stop()
            raise InputError(
                f"a process that reads images ended ({str(error).splitlines()[0]}): give a container more shared "
                f"memory (--shm-size), or use --workers 0, and go on with `--resume {self.folder}`"
            ) from error

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step; the loss and the share of wrong answers over the whole batch."""
        recipe = self.recipe
        lr = self.schedule.lr(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self._on_device(batch)
        targets = F.one_hot(labels, self.net.architecture.num_classes).float()  # (N, classes)
        rng = np.random.default_rng((self.seed, MIX, self.step, self.processes.rank))
        images, targets = mix(images, targets, recipe, rng)

        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        wrong = torch.zeros((), device=self.device)
        parts = list(zip(images.chunk(recipe.accumulate), targets.chunk(recipe.accumulate), strict=True))
        for i, (x, y) in enumerate(parts):
            with self._gradients_shared(last=i == len(parts) - 1):
                with self._autocast():
                    logits = self.model(x)  # (N / accumulate, classes)
                part_loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing) / len(parts)
                self.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
            wrong += (logits.argmax(1) != y.argmax(1)).float().mean() / len(parts)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None and recipe.ema is not None:
            average(self.ema, self.net, min(recipe.ema, (1 + self.step) / (10 + self.step)))
        self.sums += torch.stack([loss.double(), wrong.double(), torch.ones_like(loss).double()]) * len(labels)
        if self.schedule.state["warming_up"]:
            (error,) = self.processes.total(wrong.item())
            self.schedule.trained(error / self.processes.world)
        return loss, wrong

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 (N, 3, size, size), and labels."""
        images = batch.images.to(self.device, non_blocking=True).to(memory_format=self.layout)
        shifted: Tensor = images
        if self.recipe.pca_colour:
            shifted = images.float() + batch.colours.to(self.device, non_blocking=True)[:, :, None, None]
        return self.normalise(shifted), batch.labels.to(self.device, non_blocking=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    @contextlib.contextmanager
    def _gradients_shared(self, *, last: bool) -> Iterator[None]:
        """Gradients are averaged over the processes once per batch, with its last part."""
        quiet = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
            yield

    def _set_training(self) -> None:
        self.net.train()
        if self.recipe.freeze:  # the batch norms too keep what they have learned
            self.net.eval()

    # ---- evaluation ----

    @property
    def kept_net(self) -> ResNet:
        """The network that is evaluated and stored: the average, where there is one."""
        return self.net if self.ema is None else self.ema

    @torch.no_grad()
    def _evaluated(self) -> Row:
        """Closes a stretch of training: evaluates, appends a row, offers the weights to the best."""
        net = self.kept_net
        if self.step == self.plan.steps and self.recipe.recompute_bn and not self.recipe.freeze:
            self._recompute_batch_norms(net)
        self.processes.share_buffers(net)
        val_loss, val_wrong, val_wrong5, images = self._validated(net)
        self._set_training()
        train_loss, train_wrong, seen = self.processes.total(*self.sums.tolist())
        row = Row(
            step=self.step,
            epoch=self.step / self.plan.steps_per_epoch,
            lr=self.schedule.lr(self.step - 1),
            train_loss=self._finite(train_loss / seen),
            train_error=train_wrong / seen,
            val_loss=val_loss / images,
            val_error=val_wrong / images,
            val_top5_error=val_wrong5 / images,
            images_per_s=seen / self.training_seconds,
            seconds=self.seconds,
        )
        self.sums.zero_()
        self.training_seconds = 0.0
        self.rows.append(row)
        self.schedule.evaluated(row.val_error)
        if self.processes.first:
            with self._room_said():
                self.best.offer(self.step, row.val_error, net.state_dict(), self.start.record, self.start.mean_image)
        return row

    def _validated(self, net: ResNet) -> list[float]:
        """Over the validation set and all processes: the sum of losses, top-1 and top-5 misses, images."""
        net.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for pixels, labels in evaluation_batches(
            self.data.val,
            self.start.preprocessing,
            max(1, self.plan.batch_size // (self.processes.world * self.recipe.accumulate)),
            workers=self.machine.loader_workers if len(self.data.val) > self.plan.batch_size else 0,
            pin=self.device.type == "cuda",
            rank=self.processes.rank,
            world=self.processes.world,
        ):
            x = self.normalise(pixels.to(self.device, memory_format=self.layout))
            y = labels.to(self.device)
            if self.stop_signal is not None and self.processes.world == 1:
                self._stop()  # nothing of this evaluation is kept: the resumed run does it again
            with self._autocast():
                logits = net(x).float()
            ranked = logits.topk(min(5, logits.shape[1])).indices == y[:, None]  # (N, 5)
            loss = F.cross_entropy(logits, y, reduction="sum")
            sums += torch.stack([loss, (~ranked[:, 0]).sum(), (~ranked.any(1)).sum(), y.new_tensor(len(y))]).double()
        return self.processes.total(*sums.tolist())

    def _recompute_batch_norms(self, net: ResNet) -> None:
        """Over augmented training images of an epoch that the run does not have, in every process the same."""
        end = self.plan.steps_per_epoch * (-(-self.plan.steps // self.plan.steps_per_epoch))
        batches = max(1, min(self.recipe.recompute_bn, len(self.data.train)) // self.plan.batch_size)
        plan = self.plan._replace(steps=end + batches, rank=0, world=1)
        with self._autocast():
            update_bn((self._on_device(batch)[0] for batch in self._batches(plan, end)), net)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} near step {self.step}: the learning rate {self.schedule.lr(self.step)} is too "
                f"high for this network and data; try --lr {self.recipe.lr / 10:g}"
            )
        return loss

    def _report(self, row: Row) -> None:
        if self.shown:
            log.info(
                "epoch %.4g: training loss %.3f, error %.1f %%; validation loss %.3f, error %.1f %% (top-5 %.1f %%); "
                "%.0f images/s",
                row.epoch,
                row.train_loss,
                100 * row.train_error,
                row.val_loss,
                100 * row.val_error,
                100 * row.val_top5_error,
                row.images_per_s,
            )

    # ---- stopping and going on ----

    def _save(self) -> None:
        """The checkpoint, and `metrics.csv`. What is still in `sums` is summed up over the processes."""
        sums = self.processes.total(*self.sums.tolist())
        if not self.processes.first:
            return
        content = {
            **self.start.record.model_dump(mode="json"),
            MEAN_IMAGE: self.start.mean_image,
            "palette": [values.tolist() for values in self.start.palette],
            "state_dict": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": dict(self.schedule.state),
            "recipe": self.recipe.model_dump(mode="json"),
            "machine": asdict(self.machine),
            "about": self.about,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "step": self.step,
            "rows": [list(row) for row in self.rows],
            "seconds": self.seconds,
            "sums": sums,
            "training_seconds": self.training_seconds,
            "best": [list(entry) for entry in self.best.kept],
        }
        if self.ema is not None:
            content["state_dict_ema"] = self.ema.state_dict()
        with self._room_said():
            checkpoint.save(self.folder, content)
            write_history(self.folder, self.rows)

    @contextlib.contextmanager
    def _room_said(self) -> Iterator[None]:
        """Says of a file that cannot be written what is left, and what to do."""
        try:
            yield
        except OSError as error:
            begun = (self.folder / checkpoint.LAST).exists()
            go_on = f"go on with `--resume {self.folder}`" if begun else "begin again, perhaps with another --out"
            raise InputError(
                f"{self.folder} cannot take what step {self.step} leaves ({error.strerror or error}): make room and "
                f"{go_on}"
            ) from error

    def _restore(self, content: checkpoint.Content) -> list[tuple[int, float]]:
        """Takes everything over from a checkpoint; returns which weights are kept."""
        self.net.load_state_dict(content["state_dict"])
        if self.ema is not None:
            self.ema.load_state_dict(content["state_dict_ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.schedule.state.update(content["schedule"])
        self.step = content["step"]
        self.rows = [Row(*values) for values in content["rows"]]
        self.seconds = content["seconds"]
        if self.processes.first:  # they are totals, and will be summed up again
            self.sums += torch.tensor(content["sums"], dtype=torch.float64, device=self.device)
        self.training_seconds = content["training_seconds"]
        return [(step, error) for step, error in content["best"]]

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the run after the current step; a second Ctrl-C stops it at once."""

        def ask(signum: int, _frame: FrameType | None) -> None:
            self.stop_signal = signum
            if self.processes.world == 1:  # torchrun passes on the Ctrl-C that the processes have had already
                signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of the parameters that are to be trained."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if recipe.decay_norms:
        groups: list[dict[str, Any]] = [{"params": trained}]
    else:
        groups = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(recipe.momentum, ADAM_BETA2), weight_decay=recipe.weight_decay, fused=True
    )


@torch.no_grad()
def average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    """Moves every weight and statistic of `averaged` by 1 - decay towards that of `net`."""
    for old, new in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
