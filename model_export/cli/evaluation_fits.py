"""What `evaluate` computes from the evaluations of several models, if it can; else it warns and goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from model_export.errors import InputError
from model_export.evaluation.calibration import Predictions
from service.runtime.measured import Calibration

log = logging.getLogger(__name__)


def with_mean(
    evaluations: Sequence[Predictions], ensemble: Callable[[Sequence[Predictions]], Predictions]
) -> list[Predictions]:
    """The evaluations and, of several, their ensemble; without it, with a warning, if the models differ too much."""
    together = list(evaluations)
    if len(evaluations) > 1:
        try:
            together.append(ensemble(evaluations))
        except InputError as error:
            log.warning("no ensemble: %s", error)
    return together


def fitted_calibration(evaluation: Predictions, calibrate: Callable[[Predictions], Calibration]) -> Calibration | None:
    """Prints the calibration; None, with a warning, if there can be none: the other figures are valid without it."""
    try:
        found = calibrate(evaluation)
    except InputError as error:
        log.warning("no calibration: %s", error)
        return None
    print(
        f"\n{evaluation.model}: temperature {found.temperature:.3f}; on the half of the images that it was not fitted "
        f"on, calibration error {100 * found.ece_before:.2f} % without it, {100 * found.ece_after:.2f} % with it"
    )
    return found
