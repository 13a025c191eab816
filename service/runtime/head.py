"""The head of a model: what its logits mean, and when an answer is withheld. A part of the model card."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from service.runtime.card_part import CardPart
from service.runtime.measured import Rejection, Share

# softmax: an image has exactly one class. sigmoid: every class is present or not, whatever the others are.
HeadKind = Literal["softmax", "sigmoid"]

USUAL_THRESHOLD = 0.5  # of a sigmoid's class: from there on, present is the more probable answer


class Head(CardPart):
    """
    Attributes:
        thresholds: with sigmoid, the probability of each class from which on it is present; None: 0.5 for each.
        rejection: with softmax; None: every image is answered.
    """

    kind: HeadKind = "softmax"
    thresholds: tuple[Share, ...] | None = None
    rejection: Rejection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Head:
        if self.kind == "softmax" and self.thresholds is not None:
            raise ValueError("thresholds of classes belong to a sigmoid head: with softmax, one class is answered")
        if self.kind == "sigmoid" and self.rejection is not None:
            raise ValueError("a rejection belongs to a softmax head: with sigmoid, no class may be present")
        return self

    @property
    def multi_label(self) -> bool:
        return self.kind == "sigmoid"

    @property
    def is_plain(self) -> bool:
        """Whether code that knows of no heads serves it rightly."""
        return self.kind == "softmax" and self.rejection is None

    def thresholds_of(self, classes: int) -> tuple[float, ...]:
        """The threshold of each class of a sigmoid head."""
        return self.thresholds or (USUAL_THRESHOLD,) * classes

    def check(self, classes: int) -> None:
        """Raises ValueError unless the head fits the number of classes."""
        if self.kind == "softmax" and classes < 2:
            raise ValueError(
                "softmax over one class always answers 1: a single logit needs the head sigmoid, two classes softmax"
            )
        if self.thresholds is not None and len(self.thresholds) != classes:
            raise ValueError(f"{len(self.thresholds)} thresholds for {classes} classes")
