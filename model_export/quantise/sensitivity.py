"""Chooses the layers that go back to float, by measuring what int8 costs in each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import ModelProto

from model_export.evaluation.answers import answers, same_answers
from model_export.evaluation.sessions import open_graph
from service.runtime.engine import DynamicEngine, Engine
from service.runtime.head import Head
from service.runtime.machine import usable_cores
from service.runtime.progress import Progress
from service.runtime.providers import open_session

log = logging.getLogger(__name__)

MAX_FLOAT_LAYERS = 4
MAX_SINGLE_LAYERS = 16  # measured one by one, from the stages that gain most
BATCH = 8
PLAIN = Head()

Quantiser = Callable[[Collection[str]], ModelProto]  # layers in float -> the graph, the other layers in int8


class Effect(NamedTuple):
    """How far the logits of int8 are from those of fp32."""

    sqnr: float  # signal-to-quantisation-noise ratio, dB
    top1_agreement: float  # in [0, 1]


class Trial(NamedTuple):
    """The effect of int8 with some layers in float."""

    float_layers: tuple[str, ...]
    effect: Effect


def signal_to_noise(logits: np.ndarray, fp32: np.ndarray, head: Head = PLAIN) -> float:
    """The signal-to-quantisation-noise ratio of logits (N, classes), in dB.

    With softmax, the mean of each row is subtracted from both: the softmax does not depend on it.
    """
    signal, quantised = fp32, logits
    if head.kind == "softmax":
        signal, quantised = (values - values.mean(axis=1, keepdims=True) for values in (fp32, logits))
    noise = np.square(quantised - signal, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(signal, dtype=np.float64).sum() / max(noise, 1e-30)))


class Int8Probe:
    """Measures the effect of int8 on the CPU provider, always on the same images.

    Args:
        fp32: the file to compare with.
        images: uint8 (N, channels, height, width).
        quantiser: makes the graphs to measure.
        head, temperature: of the model; they say what counts as the same answer.
    """

    def __init__(
        self, fp32: Path, images: np.ndarray, quantiser: Quantiser, head: Head = PLAIN, temperature: float = 1.0
    ) -> None:
        self.images, self.quantiser, self.head, self.temperature = images, quantiser, head, temperature
        self.expected = self._logits(DynamicEngine.of(open_session(fp32, "cpu", threads=usable_cores())))

    def effect(self, float_layers: Collection[str]) -> Effect:
        engine = DynamicEngine.of(open_graph(self.quantiser(float_layers), precision="int8"))
        logits = self._logits(engine)
        same = same_answers(*(answers(each, self.head, self.temperature) for each in (logits, self.expected)))
        return Effect(signal_to_noise(logits, self.expected, self.head), same)

    def _logits(self, engine: Engine) -> np.ndarray:
        starts = range(0, len(self.images), BATCH)
        return np.concatenate([engine.infer(self.images[i : i + BATCH])["logits"] for i in starts])


def choose_float_layers(probe: Int8Probe, names: Sequence[str], target: float) -> tuple[str, ...]:
    """The layers that go back to float; none if int8 throughout reaches the target.

    Otherwise each stage (first convolution, `layer1` to `layer4`, last layer) is put in float alone, then single layers
    of the stages that gain most per layer. The layers that gain most go back one by one until the target is reached or
    `MAX_FLOAT_LAYERS` are in float. The best agreement wins; among equals, the fewest layers.

    Args:
        names: of all layers, in the order of computation.
        target: the top-1 agreement to reach, in [0, 1].
    """
    all_int8 = probe.effect(())
    log.info("all in int8: %s", _describe(all_int8))
    if all_int8.top1_agreement >= target:
        return ()
    stages = _try_each(probe, list(group_by_stage(names).values()), "stage")
    log.info("in float, and the gain in dB:\n%s", _gain_table(all_int8, stages))
    by_gain = sorted(stages, key=lambda trial: (all_int8.sqnr - trial.effect.sqnr) / len(trial.float_layers))
    candidates = [layer for trial in by_gain for layer in trial.float_layers][:MAX_SINGLE_LAYERS]
    singles = _try_each(probe, [(layer,) for layer in candidates], "layer")
    log.info("in float, and the gain in dB:\n%s", _gain_table(all_int8, singles))
    order = [trial.float_layers[0] for trial in sorted(singles, key=lambda trial: -trial.effect.sqnr)]
    best = Trial((), all_int8)
    for count in range(1, MAX_FLOAT_LAYERS + 1):
        trial = Trial(tuple(order[:count]), probe.effect(order[:count]))
        log.info("%s in float: %s", ", ".join(trial.float_layers), _describe(trial.effect))
        if trial.effect.top1_agreement > best.effect.top1_agreement:
            best = trial
        if best.effect.top1_agreement >= target:
            break
    return tuple(name for name in names if name in best.float_layers)


def group_by_stage(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Layers by their stage: `conv1`, `layer1`, ..., `fc`."""
    stages = dict.fromkeys(name.partition(".")[0] for name in names)
    return {stage: tuple(name for name in names if name.partition(".")[0] == stage) for stage in stages}


def _try_each(probe: Int8Probe, choices: Sequence[tuple[str, ...]], unit: str) -> list[Trial]:
    """One trial for each choice of layers in float."""
    trials = []
    with Progress("measuring sensitivity", len(choices), unit=unit) as progress:
        for choice in choices:
            trials.append(Trial(choice, probe.effect(choice)))
            progress.advance()
    return trials


def _gain_table(all_int8: Effect, trials: Sequence[Trial]) -> str:
    """The layers of each trial and their gain over int8 throughout, the highest first."""
    rows = []
    for layers, effect in sorted(trials, key=lambda trial: -trial.effect.sqnr):
        name = layers[0] if len(layers) == 1 else f"{layers[0].partition('.')[0]} ({len(layers)} layers)"
        rows.append(f"  {name:<24} {effect.sqnr - all_int8.sqnr:+6.2f} dB  {_describe(effect)}")
    return "\n".join(rows)


def _describe(effect: Effect) -> str:
    return f"signal to noise {effect.sqnr:.2f} dB, top-1 agreement {100 * effect.top1_agreement:.2f} %"
