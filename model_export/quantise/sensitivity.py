"""Which layers int8 costs most, by measurement, and which of them go back to float."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto

from model_export.parity import agreement
from model_export.progress import Progress
from service.engine import DynamicEngine, Engine
from service.providers import open_session, usable_cores

log = logging.getLogger(__name__)

MAX_FLOAT_LAYERS = 4
MAX_MEASURED = 16  # single layers, of the groups that cost most
BATCH = 8

Make = Callable[[Collection[str]], ModelProto]  # layers in float -> the graph


class Effect(NamedTuple):
    """What int8 does to the logits, beside those of fp32."""

    sqnr: float  # dB
    top1_agreement: float  # in [0, 1]


class Measured(NamedTuple):
    """What leaving some layers in float did."""

    layers: tuple[str, ...]
    effect: Effect


def signal_to_noise(logits: np.ndarray, fp32: np.ndarray) -> float:
    """The signal-to-quantisation-noise ratio of logits (N, classes), in dB.

    The mean of each row is left out of both: the softmax does not see it.
    """
    signal, found = (values - values.mean(axis=1, keepdims=True) for values in (fp32, logits))
    noise = np.square(found - signal, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(signal, dtype=np.float64).sum() / max(noise, 1e-30)))


class Bench:
    """Measures graphs on the CPU provider, on the same images.

    Args:
        fp32: the file that they are compared with.
        images: uint8 (N, 3, crop, crop).
        make: makes the graphs.
    """

    def __init__(self, fp32: Path, images: np.ndarray, make: Make) -> None:
        self.images, self.make = images, make
        self.expected = self._logits(DynamicEngine(open_session(fp32, "cpu", threads=usable_cores())))

    def effect(self, float_layers: Collection[str]) -> Effect:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(self.make(float_layers), path)
            found = self._logits(DynamicEngine(open_session(path, "cpu", "int8", threads=usable_cores())))
        return Effect(signal_to_noise(found, self.expected), agreement(found, self.expected, 1))

    def _logits(self, engine: Engine) -> np.ndarray:
        starts = range(0, len(self.images), BATCH)
        return np.concatenate([engine.infer(self.images[i : i + BATCH])["logits"] for i in starts])


def choose_float_layers(bench: Bench, names: Sequence[str], target: float) -> tuple[str, ...]:
    """The layers that go back to float: none where all of int8 agrees with fp32 as it should.

    Else each group (the first convolution, each stage, the last layer) is left in float alone, then single layers of
    the groups that gained most per layer; of these the ones that gained most are put back one after the other, until
    the agreement is reached or there are `MAX_FLOAT_LAYERS`. What agrees best is taken, of equals the fewest layers.

    Args:
        names: of all layers, in the order of computation.
        target: the top-1 agreement, in [0, 1], at which no more layers go back.
    """
    whole = bench.effect(())
    log.info("all in int8: %s", _described(whole))
    if whole.top1_agreement >= target:
        return ()
    of_group = groups(names)
    found = measured(bench, list(of_group.values()), "group")
    log.info("in float, and the gain in dB:\n%s", table(whole, found))
    by_gain = sorted(found, key=lambda one: (whole.sqnr - one.effect.sqnr) / len(one.layers))
    candidates = [layer for one in by_gain for layer in one.layers][:MAX_MEASURED]
    singles = measured(bench, [(layer,) for layer in candidates], "layer")
    log.info("in float, and the gain in dB:\n%s", table(whole, singles))
    order = [one.layers[0] for one in sorted(singles, key=lambda one: -one.effect.sqnr)]
    best = Measured((), whole)
    for count in range(1, MAX_FLOAT_LAYERS + 1):
        tried = Measured(tuple(order[:count]), bench.effect(order[:count]))
        log.info("%s in float: %s", ", ".join(tried.layers), _described(tried.effect))
        if tried.effect.top1_agreement > best.effect.top1_agreement:
            best = tried
        if best.effect.top1_agreement >= target:
            break
    return tuple(name for name in names if name in best.layers)


def groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Layers by the stage that they belong to: `conv1`, `layer1`, ..., `fc`."""
    stages = dict.fromkeys(name.partition(".")[0] for name in names)
    return {stage: tuple(name for name in names if name.partition(".")[0] == stage) for stage in stages}


def measured(bench: Bench, choices: Sequence[tuple[str, ...]], unit: str) -> list[Measured]:
    """What leaving each choice of layers in float does."""
    found = []
    with Progress("measuring sensitivity", len(choices), unit=unit) as progress:
        for choice in choices:
            found.append(Measured(choice, bench.effect(choice)))
            progress.advance()
    return found


def table(whole: Effect, found: Sequence[Measured]) -> str:
    """Of each choice its layers and what it gained over all of int8."""
    rows = []
    for one in sorted(found, key=lambda one: -one.effect.sqnr):
        name = (
            one.layers[0] if len(one.layers) == 1 else f"{one.layers[0].partition('.')[0]} ({len(one.layers)} layers)"
        )
        rows.append(f"  {name:<24} {one.effect.sqnr - whole.sqnr:+6.2f} dB  {_described(one.effect)}")
    return "\n".join(rows)


def _described(effect: Effect) -> str:
    return f"signal to noise {effect.sqnr:.2f} dB, top-1 agreement {100 * effect.top1_agreement:.2f} %"
