"""The learning rate of every step."""

from __future__ import annotations

import math
from typing import TypedDict

from model_export.training.recipe import Recipe

ERROR_MEMORY = 0.98  # of the running training error that ends a warm-up: about the last 50 steps count


class ScheduleState(TypedDict):
    """What a schedule has learned from the run so far; plain numbers, for the checkpoint."""

    drops: int  # of a plateau schedule
    best_error: float
    stalled: int  # evaluations since then
    running_error: float
    warming_up: bool  # while `warmup_lr` holds


class Schedule:
    """`lr(step)` for steps from 0; told of errors, for the schedules that react to them."""

    def __init__(self, recipe: Recipe, *, steps: int, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.steps = steps
        self.warmup_steps = round(recipe.warmup * steps_per_epoch)
        self.milestones = recipe.milestone_steps(steps)
        self.state = ScheduleState(
            drops=0,
            best_error=math.inf,
            stalled=0,
            running_error=1.0,
            warming_up=recipe.warmup_lr is not None,
        )

    def lr(self, step: int) -> float:
        """The learning rate with which step number `step` is taken."""
        r = self.recipe
        if self.state["warming_up"] and r.warmup_lr is not None:
            return r.warmup_lr
        rising = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return r.lr * rising * self._share(step)

    def _share(self, step: int) -> float:
        r = self.recipe
        match r.schedule:
            case "step":
                return r.gamma ** sum(step >= milestone for milestone in self.milestones)
            case "plateau":
                return r.gamma ** self.state["drops"]
            case "cosine":
                done = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
                return 0.5 * (1 + math.cos(math.pi * done))
            case "linear":
                return min(1.0, (self.steps - step) / max(1, self.steps - self.milestones[0]))

    def trained(self, error: float) -> None:
        """After every step: its training error, a fraction. Ends the warm-up of section 4.2."""
        state = self.state
        state["running_error"] = ERROR_MEMORY * state["running_error"] + (1 - ERROR_MEMORY) * error
        if state["running_error"] < self.recipe.warmup_error:
            state["warming_up"] = False

    def evaluated(self, error: float) -> None:
        """After every evaluation: the validation error. Drops a plateau schedule's learning rate."""
        state = self.state
        if error < state["best_error"]:
            state["best_error"], state["stalled"] = error, 0
            return
        state["stalled"] += 1
        if state["stalled"] >= self.recipe.patience:
            state["drops"], state["stalled"] = state["drops"] + 1, 0
