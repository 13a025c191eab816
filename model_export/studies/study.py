"""The paper's comparisons: which networks each trains, at a small scale and at the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from model_export.datasets.by_name import is_cifar10
from model_export.datasets.cifar10 import AS_PUBLISHED
from service.runtime.model_card import Architecture, Shortcut

StudyName = Literal["degradation", "shortcuts", "depth"]
Panels = Mapping[str, Mapping[str, Architecture]]  # title of a panel of the plot -> network's label -> network


class Scale(NamedTuple):
    """How large a study is."""

    data: str  # value of `--data`
    recipe: tuple[str, ...]  # further options of `train`
    degradation: tuple[int, ...]  # depths
    shortcuts: int  # depth
    depth: tuple[int, ...]  # depths
    split: str = "auto"  # value of `--split`

    @property
    def held_out(self) -> str:
        """What errors are measured on, besides the images to train on."""
        return "test" if self.split == AS_PUBLISHED else "validation"

    def on(self, data: str) -> Scale:
        """This scale with other data. Its split is one of CIFAR-10, and stays if the data is a copy of that."""
        return self._replace(data=data, split=self.split if is_cifar10(data) else "auto")


# Under 15 minutes per study on two cores. Batches are a quarter of the paper's: in so short a time the number of steps
# is the limit. After 380 steps of 128 images neither ResNet-56 nor its plain counterpart had learned much.
SMALL = Scale(
    data="drawings:train=4096,val=1024,side=32,difficulty=easy,classes=circle+cross+star+heart+stripes+dots",
    recipe=("--epochs", "12", "--batch-size", "32", "--lr", "0.05", "--milestones", "0.8", "--workers", "0"),
    degradation=(20, 32, 44, 56),
    shortcuts=44,
    depth=(20, 56, 110),
)
# As in section 4.2: trained on the training set, evaluated on the test set.
PAPER = Scale(
    data="cifar10",
    recipe=(),
    degradation=(20, 32, 44, 56, 110),
    shortcuts=56,
    depth=(20, 32, 44, 56, 110, 1202),
    split=AS_PUBLISHED,
)


class Study(NamedTuple):
    """One comparison."""

    name: StudyName
    title: str
    expectation: str  # the paper's finding
    panels: Panels


def get_study(name: StudyName, scale: Scale) -> Study:
    """The study of this name at this scale."""
    if name == "degradation":
        return Study(
            name,
            "Degradation: plain against residual nets",
            "Plain nets train to a higher error the deeper they are; residual nets do not (figures 4 and 6).",
            {
                "plain": {f"plain-{depth}": cifar_net(depth, None) for depth in scale.degradation},
                "residual": {f"ResNet-{depth}": cifar_net(depth) for depth in scale.degradation},
            },
        )
    if name == "shortcuts":
        depth = scale.shortcuts
        options: dict[str, Shortcut | None] = {"plain": None, "A": "A", "B": "B", "C": "C"}
        return Study(
            name,
            f"Shortcut options at depth {depth}",
            "All three options are far better than none and differ little; C is slightly better than B, B than A "
            "(table 3, on ImageNet).",
            {"": {label: cifar_net(depth, option) for label, option in options.items()}},
        )
    return Study(
        name,
        "Deeper residual nets",
        "Residual nets gain from depth up to 110 layers; 1202 layers train as well, and test worse (figure 6).",
        {"": {f"ResNet-{depth}": cifar_net(depth) for depth in scale.depth}},
    )


def cifar_net(depth: int, shortcut: Shortcut | None = "A") -> Architecture:
    """A net of section 4.2, for ten classes; plain without a shortcut."""
    return Architecture(depth=depth, family="cifar", shortcut=shortcut, num_classes=10)
