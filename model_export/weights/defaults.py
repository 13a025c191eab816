"""What each family of networks usually has: its shortcut and its preprocessing."""

from __future__ import annotations

from typing import Literal

from service.runtime.model_card import Shortcut
from service.runtime.preprocessing import Preprocessing

Family = Literal["imagenet", "cifar"]
ShortcutOption = Literal["A", "B", "C", "none"]

# Mean and standard deviation of CIFAR-10's training pixels. Networks of this family see the whole 32x32 image.
CIFAR_PREPROCESSING = Preprocessing(resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def shortcut_of(option: ShortcutOption | None, family: Family) -> Shortcut | None:
    """The shortcut that `--shortcut` selects; "none" is a plain net.

    Without the option it is the paper's choice: A for the CIFAR nets (section 4.2), B for the others.
    """
    if option is None:
        return "A" if family == "cifar" else "B"
    return None if option == "none" else option


def usual_preprocessing(family: Family) -> Preprocessing:
    """The preprocessing that networks of this family are commonly trained with."""
    return CIFAR_PREPROCESSING if family == "cifar" else Preprocessing()
