"""Publishes what was learnt about a version as the model's next one: a version never changes."""

from __future__ import annotations

from model_export.errors import InputError
from model_export.export.publish import publish_changed
from service.runtime.measured import Accuracy, Calibration
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import ModelVersion, model_versions


def publish_record(version: ModelVersion, accuracy: Accuracy, calibration: Calibration | None) -> ModelCard:
    """Publishes accuracy and calibration as the model's next version, which shares the files of this one.

    Args:
        calibration: None keeps the version's own.

    Raises:
        InputError: a later version is published, which the next one would replace with older files.
        CardError, OSError: as `publish_changed`.
    """
    check_latest(version)
    changes: dict[str, object] = {"accuracy": accuracy}
    if calibration is not None:
        changes["calibration"] = calibration
    return publish_changed(version, changes)


def check_latest(version: ModelVersion) -> None:
    """Raises InputError if a later version is published."""
    latest = max(entry.version for entry in model_versions(version.path.parent.parent) if entry.name == version.name)
    if version.version != latest:
        raise InputError(
            f"{version.name} {version.version} is not the latest version, {latest}: what is recorded becomes the next "
            "version, which would bring older files back; evaluate the latest, or leave --record out"
        )
