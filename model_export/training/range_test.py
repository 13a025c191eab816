"""The learning-rate range test: trains for a few steps with a rising learning rate and looks where the loss falls.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; here the rate rises exponentially.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model_export.errors import InputError
from model_export.training.trainer import Trainer
from service.runtime.progress import Progress

SMOOTHING = 0.9  # share of the past in the running loss, which tells whether the loss diverges
DIVERGED = 4.0  # times the lowest running loss: the test ends
WINDOW = 0.2  # share of the steps over which a slope is taken: the loss of one batch is noise
FEWEST = 20  # steps from which a slope can be told


class RangeTest(NamedTuple):
    """The steps of a range test, float64 (steps,) each."""

    lrs: np.ndarray
    losses: np.ndarray

    @property
    def trend(self) -> np.ndarray:
        """The loss without its noise: the value of `_fits` at each step, float64 (steps,)."""
        return self._fits[:, 1]

    @property
    def suggested(self) -> float:
        """The learning rate at which the loss falls fastest, before its minimum.

        Raises:
            InputError: the loss does not fall anywhere.
        """
        half = self._half_window  # at the ends there are too few steps for a slope
        whole = self._fits[half:-half]
        slopes = whole[: int(whole[:, 1].argmin()) + 1, 0]
        if slopes.min() >= 0:
            raise InputError(
                f"the loss does not fall between learning rates {self.lrs[0]:g} and {self.lrs[-1]:g}: begin with a "
                "lower --lowest, or give more --test-steps"
            )
        return float(self.lrs[half + int(slopes.argmin())])

    @property
    def _half_window(self) -> int:
        return max(2, round(WINDOW * len(self.losses) / 2))

    @property
    def _fits(self) -> np.ndarray:
        """The line through the losses around each step, by least squares: slope and value there, float64 (steps, 2)."""
        half = self._half_window
        steps = np.arange(len(self.losses))
        return np.array(
            [
                np.polyfit(steps[max(0, i - half) : i + half + 1] - i, self.losses[max(0, i - half) : i + half + 1], 1)
                for i in steps
            ]
        )


class Rising:
    """A schedule: the learning rate rises by the same factor with every step. Takes the place of `Schedule`."""

    warming_up = False

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        self.lowest, self.highest, self.steps = lowest, highest, steps

    def lr(self, step: int) -> float:
        return self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))


def check_range(lowest: float, highest: float, steps: int) -> None:
    """Raises InputError if a test with these limits could tell nothing."""
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"learning rates from {lowest:g} to {highest:g} do not rise: give --lowest below --highest")
    if steps < FEWEST:
        raise InputError(f"{steps} steps are too few to see a slope: give --test-steps {FEWEST} or more, such as 100")


def range_test(trainer: Trainer, lowest: float, highest: float) -> RangeTest:
    """Takes all steps of a run with rising learning rates, or those until the loss diverges. The run is used up.

    Args:
        trainer: a run at its first step; nothing is written to its folder.

    Raises:
        InputError: the limits make no sense, or the loss diverges before anything can be told.
    """
    steps, processes = trainer.plan.steps, trainer.processes
    check_range(lowest, highest, steps)
    schedule = Rising(lowest, highest, steps)
    trainer.state.schedule = schedule  # type: ignore[assignment]
    trainer.net.train()
    for module in trainer.frozen:
        module.eval()
    losses: list[float] = []
    running = lowest_running = math.inf
    with Progress("learning rates", steps, unit="step", shown=trainer.shown) as progress:
        for step, batch in enumerate(trainer.feed.training(0)):
            own, _ = trainer.train_step(batch)
            loss = processes.total(own.item())[0] / processes.world
            if not math.isfinite(loss):
                break
            trainer.state.step += 1
            losses.append(loss)
            running = loss if step == 0 else SMOOTHING * running + (1 - SMOOTHING) * loss
            lowest_running = min(lowest_running, running)
            progress.advance(loss=loss)
            if running > DIVERGED * lowest_running:
                break
    if len(losses) < FEWEST:
        raise InputError(f"the loss diverges after {len(losses)} steps: begin with a lower --lowest than {lowest:g}")
    lrs = np.array([schedule.lr(step) for step in range(len(losses))])
    return RangeTest(lrs, np.array(losses))
