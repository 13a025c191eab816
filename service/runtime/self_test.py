"""The numeric proof of an engine: it must reproduce the answers that were stored at export."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.runtime.choices import Precision, ProviderName
from service.runtime.model_folder import SELF_TEST_FILE, CardError

# Unit roundoff of each precision (half the distance from 1 to the next number), relative to float32's.
ROUNDOFF: dict[Precision, float] = {"fp32": 1, "fp16": 2**13, "bf16": 2**16}

# The tolerance, in multiples of the error that PyTorch's float32 rounding and a precision's roundoff predict. Rounding
# the inputs of every convolution moves the logits by 0.01 to 0.3 times that. float32 has room for algorithms that sum
# in another order (Winograd's). TF32, with the roundoff of fp16, is still 8 to 25 times further away.
MARGIN: dict[Precision, float] = {"fp32": 64, "fp16": 2, "bf16": 1}

# Bounds of the tolerance, as shares of the logits' range. A wrong kernel is off by the range itself.
LEAST: dict[Precision, float] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}
MOST = 0.3

# The tolerance where rounding predicts nothing: the steps of int8 are chosen layer by layer, and older models do not
# store PyTorch's rounding error.
CONSTANT: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.01, "int8": 0.2}


class SelfTestFailed(Exception):
    """An engine does not reproduce the stored answers."""


class SelfTest(NamedTuple):
    """Inputs and the network's answers to them, stored at export.

    Attributes:
        images: uint8 `(N, channels, height, width)`.
        logits: float32 `(N, num_classes)`, computed in float64.
        rounding: PyTorch's largest error in float32, relative to the logits' range; None in older files.
    """

    images: np.ndarray
    logits: np.ndarray
    rounding: float | None = None

    @classmethod
    def read(cls, folder: Path) -> SelfTest:
        """Raises CardError if the file is missing or malformed."""
        path = folder / SELF_TEST_FILE
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                rounding = float(stored["rounding"]) if "rounding" in stored else None
                return cls(stored["images"], stored["logits"], rounding)
        except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CardError(f"{path} cannot be read ({error}): publish the model again") from error

    def write(self, folder: Path) -> None:
        rounding = {} if self.rounding is None else {"rounding": np.array(self.rounding)}
        np.savez_compressed(folder / SELF_TEST_FILE, images=self.images, logits=self.logits, **rounding)  # type: ignore[arg-type]


def tolerance(precision: Precision, rounding: float | None) -> float:
    """How far the logits may be from the exact ones, relative to their range.

    Args:
        rounding: as in `SelfTest`.
    """
    if rounding is None or precision == "int8":
        return CONSTANT[precision]
    predicted = rounding * ROUNDOFF[precision]
    return min(max(LEAST[precision], MARGIN[precision] * predicted), MOST)


def largest_error(
    stored: SelfTest, logits_by_path: Sequence[np.ndarray], provider: ProviderName, precision: Precision
) -> float:
    """Compares an engine's logits for the stored images with the stored ones.

    Args:
        logits_by_path: float32 `(N, num_classes)` from every path that a batch may take through the engine.

    Returns:
        The largest error of a logit, relative to the range of the stored logits.

    Raises:
        SelfTestFailed: the error is larger than the precision explains.
    """
    error = float(np.abs(np.stack(logits_by_path) - stored.logits).max() / np.ptp(stored.logits))
    allowed = tolerance(precision, stored.rounding)
    if error <= allowed:  # false for NaN
        return error
    fault = (
        f"{provider} computes wrong answers: the logits differ from those stored at export by {error:.3%} of their "
        f"range; {precision} explains at most {allowed:.3%}"
    )
    if (provider, precision) == ("cuda", "fp32") and error <= tolerance("bf16", stored.rounding):
        fault += ". Where cuDNN has no fp32 kernel for a convolution, ONNX Runtime uses TF32: serve this model in fp16"
    raise SelfTestFailed(fault)
