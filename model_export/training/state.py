"""The state of a run: everything that training changes and that a resumed run has to get back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from model_export.nets.resnet import ResNet
from model_export.training.checkpoint import BestWeights, Content
from model_export.training.distributed import Processes
from model_export.training.history import Row
from model_export.training.optimizer import lay_out_as_parameters, make_optimizer
from model_export.training.plan import Plan
from model_export.training.schedule import Schedule

KEYS = {"net": "state_dict", "ema": "state_dict_ema"}  # in a checkpoint, as timm and others call them


@runtime_checkable
class Stateful(Protocol):
    """A part of the state that saves and restores itself, such as a network or an optimiser."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> object: ...


@dataclass
class RunState:
    """The state of a run. A checkpoint holds every field under its own name or that in `KEYS`; None is left out."""

    net: ResNet
    ema: ResNet | None
    """moving average of the weights"""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    best: BestWeights
    sums: Tensor
    """of loss, wrong answers and images, in this process since the last evaluation: float64 (3,)"""
    training_seconds: float = 0.0
    """since the last evaluation, like `sums`"""
    seconds: float = 0.0
    """of the whole run, evaluations included"""
    step: int = 0
    """steps done"""
    rows: list[Row] = field(default_factory=list)
    """one for each evaluation"""

    @classmethod
    def begin(cls, net: ResNet, plan: Plan, best: BestWeights, device: torch.device, *, scaled: bool) -> RunState:
        """The state before the first step.

        Args:
            net: on its device, with parameters that are not to be trained already frozen.
            scaled: whether the loss is scaled, which gradients in float16 need.
        """
        return cls(
            net=net,
            ema=copy.deepcopy(net).eval() if plan.recipe.ema is not None else None,
            optimizer=make_optimizer(net, plan.recipe),
            scaler=torch.amp.GradScaler(device.type, enabled=scaled),
            schedule=Schedule(plan.recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch),
            best=best,
            sums=torch.zeros(3, dtype=torch.float64, device=device),
        )

    @property
    def evaluated_net(self) -> ResNet:
        """The network that is evaluated and kept: the average, if there is one."""
        return self.net if self.ema is None else self.ema

    def content(self, processes: Processes) -> Content:
        """The state as plain data. All processes have to call this, because `sums` is totalled over them."""
        fields = {KEYS.get(name, name): value for name, value in vars(self).items() if value is not None}
        plain = {key: value.state_dict() if isinstance(value, Stateful) else value for key, value in fields.items()}
        return plain | {"rows": [list(row) for row in self.rows], "sums": processes.total(*self.sums.tolist())}

    def restore(self, content: Content, processes: Processes) -> None:
        """Takes over the state that `content` returned."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Stateful):
                stored = content[KEYS.get(name, name)]
                if value is self.scaler and not stored:  # the run was not in float16: there is no scale to take over
                    continue
                value.load_state_dict(stored)
            elif value is not None:
                setattr(self, name, content[name])
        lay_out_as_parameters(self.optimizer)
        self.rows = [Row(*values) for values in content["rows"]]
        sums = content["sums"] if processes.first else [0.0] * 3  # totals: only one process may count them again
        self.sums = torch.tensor(sums, dtype=torch.float64, device=processes.device)
