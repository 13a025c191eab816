"""What others say of a weight file that does not record it itself."""

from __future__ import annotations

from typing import NamedTuple

from service.runtime.measured import Accuracy
from service.runtime.model_card import Architecture, Label
from service.runtime.preprocessing import Preprocessing


class Description(NamedTuple):
    """The network in a weight file, as its publisher describes it; None where nothing is said."""

    source: str  # for people, as in the model card
    architecture: Architecture
    labels: tuple[Label, ...] | None
    preprocessing: Preprocessing | None
    license: str | None
    accuracy: Accuracy | None = None
