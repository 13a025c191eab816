"""Publishes what was learnt about a version as the model's next one: a version never changes."""

from __future__ import annotations

from collections.abc import Sequence

from model_export.errors import InputError
from model_export.export.publish import publish_changed
from model_export.versions import check_nothing_lost, published, replaced_by_next
from service.runtime.head import Head
from service.runtime.measured import Accuracy, Calibration, MultiLabelAccuracy, Rejection
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import ModelVersion, read_card


def publish_record(
    version: ModelVersion,
    accuracy: Accuracy | MultiLabelAccuracy,
    *,
    calibration: Calibration | None = None,
    rejection: Rejection | None = None,
    thresholds: Sequence[float] | None = None,
    latest: int | None = None,
) -> ModelCard:
    """Publishes what was measured as the model's next version, which shares the files of this one.

    Args:
        calibration, rejection, thresholds: None keeps the version's own.
        thresholds: of the classes of a multi-label model.
        latest: the number of the model's latest version before `version` was chosen; None: it was chosen just now.

    Raises:
        InputError: clients get a later version, which the next one would replace with older files; the next one would
            lack what was published in the meantime; or the rejection that is kept would not fit the calibration.
        CardError, OSError: as `publish_changed`.
    """
    if latest is None:
        latest = max(published(version.path.parent.parent, version.name))
    changes: dict[str, object] = {"accuracy": accuracy}
    if calibration is not None:
        changes["calibration"] = calibration
        if rejection is None:
            check_rejection_fits(version)
    if rejection is not None:
        changes["head"] = Head(rejection=rejection)
    if thresholds is not None:
        changes["head"] = Head(kind="sigmoid", thresholds=tuple(thresholds))

    def check() -> None:
        check_latest(version)
        check_nothing_lost(version, latest)

    return publish_changed(version, changes, check=check)


def check_rejection_fits(version: ModelVersion) -> None:
    """Raises InputError if a new calibration alone would leave a rejection behind that judges by the old one."""
    if read_card(version.path).head.rejection:
        raise InputError(
            f"{version.name} {version.version} rejects answers by their probability, which a new calibration changes: "
            "fit both, with --calibrate and --reject-above-error"
        )


def check_latest(version: ModelVersion) -> None:
    """Raises InputError if clients get a later version because it is the latest, which the next one would be then."""
    latest, name = replaced_by_next(version), version.name
    if latest not in (None, version.version):
        raise InputError(
            f"{name} {version.version} is not the latest version, {latest}, which clients get: what is recorded "
            "becomes the next version, which would bring older files back to them. Evaluate the latest, leave --record "
            f"out, or run `promote {name}@{latest}` first, so that they keep it"
        )
