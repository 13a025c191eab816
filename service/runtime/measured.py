"""What was measured of a model: parts of the model card."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.runtime.card_part import CardPart
from service.runtime.choices import Precision

Share = Annotated[float, Field(ge=0, le=1)]


class Accuracy(CardPart):
    """Measured (or published) accuracy, as fractions in [0, 1].

    `provider` ("pytorch" for weights) and `precision` are those of the measurement; None for published accuracy.
    """

    dataset: str
    images: int = Field(ge=1)
    top1: Share
    top5: Share
    provider: str | None = None
    precision: Precision | None = None


class MultiLabelAccuracy(CardPart):
    """What `Accuracy` is for multi-label models. Shares; `provider` and `precision` as there.

    Attributes:
        mean_average_precision: over the classes that have images (mAP, without interpolation).
        micro_f1: of all decisions together, at the thresholds of the card.
        macro_f1: the mean over the classes that have images.
    """

    dataset: str
    images: int = Field(ge=1)
    mean_average_precision: Share
    micro_f1: Share
    macro_f1: Share
    provider: str | None = None
    precision: Precision | None = None


class Calibration(CardPart):
    """Temperature scaling of the probabilities, `softmax(logits / temperature)`, and the calibration error it leaves.

    "On Calibration of Modern Neural Networks" (Guo et al. 2017), section 4.2. The temperature was fitted on one half of
    the images; the expected calibration errors (ECE, fractions in [0, 1]) were measured on the other half.

    With a sigmoid head it is `sigmoid(logits / temperature)`; the errors are means over the classes (classwise-ECE).
    """

    temperature: float = Field(gt=0, allow_inf_nan=False)
    ece_before: Share
    ece_after: Share
    dataset: str
    images: int = Field(ge=1)


class Rejection(CardPart):
    """Below which probability of the best class no class is answered, and what that costs and gains.

    "On optimum recognition error and reject tradeoff" (Chow 1970). The threshold was fitted on one half of the images;
    coverage and errors were measured on the other half.

    Attributes:
        threshold: of the probability as the service answers it, temperature included.
        coverage: the share of images that are answered.
        error: the share of wrong answers among these.
        error_without: the share of wrong answers if every image were answered.
        images: both halves.
    """

    threshold: Share
    coverage: Share
    error: Share
    error_without: Share
    dataset: str
    images: int = Field(ge=1)
