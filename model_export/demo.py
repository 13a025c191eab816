"""A ResNet-18 trained on the spot, on drawings, for machines that can download no weights.

Held-out accuracy is measured on JPEG files through the decoder of the service, so it is that of serving.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model_export.drawings import CLASSES, label_of, pixels
from model_export.progress import Progress
from model_export.resnet import ResNet, resnet
from service.card import Accuracy, Preprocessing

SERVED = Preprocessing()


@dataclass(frozen=True)
class Phase:
    """New drawings at one resolution, each seen once.

    They cycle through the classes, so that batches are balanced as they come; nothing has to be shuffled, cropped at
    random or mirrored.
    """

    crop: int  # pixels
    pictures: int
    batch_size: int

    @property
    def preprocessing(self) -> Preprocessing:
        """Serving's, scaled down."""
        return Preprocessing(resize=self.crop * SERVED.resize // SERVED.crop, crop=self.crop)

    @property
    def steps(self) -> int:
        return -(-self.pictures // self.batch_size)


@dataclass(frozen=True)
class Schedule:
    """A training, from the first phase to the last; the last is at the resolution of serving."""

    # Small pictures teach most of it at a third of the price. The learning rate falls only in the last phase, which has
    # to move the weights, and not just the batch-norm statistics, to the size of serving.
    phases: tuple[Phase, ...] = (
        Phase(crop=112, pictures=4096, batch_size=16),
        Phase(crop=SERVED.crop, pictures=1536, batch_size=16),
    )
    learning_rate: float = 1e-3
    warm_up: float = 0.08  # of all steps
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    held_out: int = 600

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a fraction of its peak: warm-up, then constant, then down in a line."""
        steps = sum(phase.steps for phase in self.phases)
        return min(1.0, (step + 1) / (self.warm_up * steps), (steps - step) / self.phases[-1].steps)


FULL = Schedule()


class Demo(NamedTuple):
    """What `train_demo` made."""

    net: ResNet  # fp32, in eval mode; its classes are `drawings.CLASSES`
    accuracy: Accuracy  # on held-out drawings
    losses: tuple[float, ...]  # of every step


def train_demo(seed: int = 0, *, progress: bool = True, schedule: Schedule = FULL) -> Demo:
    """Trains a ResNet-18 to tell drawings apart: about two minutes on two cores that have bfloat16.

    The same seed gives the same weights on the same machine. `progress` shows bars on a terminal, and logs a line now
    and then elsewhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = resnet(18, num_classes=len(CLASSES))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    losses = _train(net, schedule, seed, progress)
    net.eval()
    first_held_out = sum(phase.pictures for phase in schedule.phases)
    accuracy = evaluate(net, seed, range(first_held_out, first_held_out + schedule.held_out), progress=progress)
    return Demo(net, accuracy, tuple(losses))


def _train(net: ResNet, schedule: Schedule, seed: int, progress: bool) -> list[float]:
    """Trains in place; returns the loss of every step."""
    # AdamW, because there are few steps: after 4096 pictures at 96 px it was 74 % right, SGD with momentum 57 %.
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16())
    losses: list[float] = []
    net.train()
    first = 0
    for phase in schedule.phases:
        images, labels = drawn(seed, range(first, first + phase.pictures), phase.preprocessing, progress=progress)
        first += phase.pictures
        shown = Progress(f"training at {phase.crop} px", phase.steps * phase.batch_size, shown=progress)
        batches = zip(torch.split(images, phase.batch_size), torch.split(labels, phase.batch_size), strict=True)
        for x, y in batches:
            with autocast:
                logits = net(normalised(x))  # (N, classes)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=schedule.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            correct = (logits.argmax(dim=1) == y).float().mean().item()
            shown.advance(len(y), loss=losses[-1], accuracy=correct)
        shown.close()
    return losses


def evaluate(net: ResNet, seed: int, indices: range, *, progress: bool = True) -> Accuracy:
    """Top-1 and top-5 accuracy, in fp32, on pictures of the data set `seed`, decoded as the service does."""
    images, labels = drawn(seed, indices, SERVED, progress=progress)
    top1 = top5 = 0
    with torch.inference_mode():
        for x, y in zip(torch.split(images, 16), torch.split(labels, 16), strict=True):
            hits = net(normalised(x)).topk(5).indices == y[:, None]  # (N, 5)
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.sum())
    n = len(images)
    return Accuracy(dataset=f"drawings, held out (seed {seed})", images=n, top1=top1 / n, top5=top5 / n)


def drawn(seed: int, indices: range, preprocessing: Preprocessing, *, progress: bool = True) -> tuple[Tensor, Tensor]:
    """Pictures of the data set `seed` as the service would see them: uint8 (N, 3, crop, crop) and int64 labels (N,)."""
    images = np.empty((len(indices), 3, preprocessing.crop, preprocessing.crop), np.uint8)
    shown = Progress("drawing", len(indices), shown=progress)

    def fill(row: int) -> None:
        images[row] = pixels(seed, indices[row], preprocessing)

    # Threads, because Pillow and numpy release the interpreter lock in all that takes time here.
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        for _ in pool.map(fill, range(len(indices))):
            shown.advance(1)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, draw no more
        shown.close()
    return torch.from_numpy(images), torch.tensor([label_of(index) for index in indices])


def normalised(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 (N, 3, H, W), channels last: the part of the preprocessing that is in the graph."""
    x = images.contiguous(memory_format=torch.channels_last).float() / 255
    mean, std = (torch.tensor(of_channels).view(1, 3, 1, 1) for of_channels in (SERVED.mean, SERVED.std))
    return (x - mean) / std


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # "bf16": ARM
