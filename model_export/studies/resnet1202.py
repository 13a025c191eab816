"""ResNet-1202 from end to end: built, trained for one step, exported, checked and run."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from model_export.drawings.samples import sample_images
from model_export.export.publish import publish
from model_export.nets.resnet import build
from model_export.studies.study import cifar_net
from model_export.weights.random_weights import random_weights
from service.runtime.engine import DynamicEngine
from service.runtime.machine import usable_cores
from service.runtime.providers import open_session

log = logging.getLogger(__name__)

DEPTH = 1202
BATCH = 8


def run_end_to_end(depth: int = DEPTH) -> str:
    """Runs every step and returns the timings, as a paragraph of Markdown. Trains to no accuracy."""
    architecture = cifar_net(depth)
    clock = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(architecture)
    build_s = time.perf_counter() - clock

    log.info("ResNet-%d: one training step", depth)
    clock = time.perf_counter()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss = F.cross_entropy(net(torch.randn(BATCH, 3, 32, 32)), torch.arange(BATCH))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    step_s = time.perf_counter() - clock

    log.info("ResNet-%d: export; takes minutes", depth)
    clock = time.perf_counter()
    loaded = random_weights(architecture)
    with tempfile.TemporaryDirectory() as folder:
        card = publish(loaded, Path(folder))
        export_s = time.perf_counter() - clock
        path = Path(folder) / card.name / str(card.version) / card.files["fp32"].file
        engine = DynamicEngine.of(open_session(path, "cpu", threads=usable_cores()))
        images = sample_images(BATCH, card.preprocessing)
        engine.infer(images)  # warm-up
        clock = time.perf_counter()
        engine.infer(images)
        inference_s = time.perf_counter() - clock
    parity = card.parity
    return (
        f"ResNet-{depth} ({card.parameters:,} parameters) is built in {build_s:.1f} s, takes a training step of "
        f"{BATCH} images in {step_s:.1f} s (loss {loss.item():.2f}), is exported and checked in {export_s:.0f} s "
        f"(largest difference of a logit {parity.max_abs_difference:.1g}, top-1 agreement "
        f"{100 * parity.top1_agreement:.0f} %; {card.files['fp32'].bytes / 1e6:.0f} MB) and answers {BATCH} images in "
        f"{1000 * inference_s:.0f} ms on the CPU provider.\n"
    )
