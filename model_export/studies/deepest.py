"""ResNet-1202 from end to end: built, trained for a step, exported, proven and run. Not trained to any accuracy."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from model_export.parity import sample_images
from model_export.publish import publish
from model_export.random_weights import random_weights
from model_export.resnet import build
from model_export.studies.study import cifar
from service.engine import DynamicEngine
from service.providers import open_session, usable_cores

log = logging.getLogger(__name__)

DEPTH = 1202
BATCH = 8


def demonstrate(depth: int = DEPTH) -> str:
    """What happened, with times, as a paragraph of Markdown."""
    architecture = cifar(depth)
    clock = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(architecture)
    built = time.perf_counter() - clock

    log.info("ResNet-%d: one training step", depth)
    clock = time.perf_counter()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss = F.cross_entropy(net(torch.randn(BATCH, 3, 32, 32)), torch.arange(BATCH))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    stepped = time.perf_counter() - clock

    log.info("ResNet-%d: export, which takes some minutes", depth)
    clock = time.perf_counter()
    loaded = random_weights(architecture)
    with tempfile.TemporaryDirectory() as folder:
        card = publish(loaded, Path(folder))
        exported = time.perf_counter() - clock
        path = Path(folder) / card.name / str(card.version) / card.files["fp32"].file
        engine = DynamicEngine(open_session(path, "cpu", threads=usable_cores()))
        images = sample_images(BATCH, card.preprocessing)
        engine.infer(images)
        clock = time.perf_counter()
        engine.infer(images)
        ran = time.perf_counter() - clock
    parity = card.parity
    return (
        f"ResNet-{depth} ({card.parameters:,} parameters) is built in {built:.1f} s, takes a training step of {BATCH} "
        f"images in {stepped:.1f} s (loss {loss.item():.2f}), is exported and proven in {exported:.0f} s (largest "
        f"difference of a logit {parity.max_abs_difference:.1g}, top-1 agreement {100 * parity.top1_agreement:.0f} %; "
        f"{card.files['fp32'].bytes / 1e6:.0f} MB) and answers {BATCH} images in {1000 * ran:.0f} ms on the CPU "
        "provider.\n"
    )
