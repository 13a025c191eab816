"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import TypedDict

from model_export.training.recipe import Recipe

ERROR_MEMORY = 0.98  # per step, of the running training error that ends a warm-up: it covers about 50 steps


class ScheduleState(TypedDict):
    """What a schedule remembers of the run so far; plain numbers, for the checkpoint."""

    drops: int  # of a plateau schedule's learning rate
    best_error: float  # in validation
    stalled: int  # evaluations since the best error
    running_error: float  # moving average of the training error
    warming_up: bool  # whether `warmup_lr` holds


class Schedule:
    """The learning rate of each step, counted from 0. Some schedules react to training or validation errors."""

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

    @property
    def warming_up(self) -> bool:
        """Whether `warmup_lr` holds; `trained` wants to know the training errors until it does not."""
        return self.state["warming_up"]

    def state_dict(self) -> ScheduleState:
        return self.state.copy()

    def load_state_dict(self, state: ScheduleState) -> None:
        self.state.update(state)

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        r = self.recipe
        if self.warming_up and r.warmup_lr is not None:
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
        """Takes the training error of a step, a fraction. Ends the warm-up of section 4.2."""
        state = self.state
        state["running_error"] = ERROR_MEMORY * state["running_error"] + (1 - ERROR_MEMORY) * error
        if state["running_error"] < self.recipe.warmup_error:
            state["warming_up"] = False

    def evaluated(self, error: float) -> None:
        """Takes the validation error of an evaluation, a fraction. Drops a plateau schedule's learning rate."""
        state = self.state
        if error < state["best_error"]:
            state["best_error"], state["stalled"] = error, 0
            return
        state["stalled"] += 1
        if state["stalled"] >= self.recipe.patience:
            state["drops"], state["stalled"] = state["drops"] + 1, 0
