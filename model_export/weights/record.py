"""The record in our own weight files: architecture, preprocessing, labels, accuracy and training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model_export.errors import InputError
from service.runtime.head import Head
from service.runtime.measured import Accuracy, MultiLabelAccuracy
from service.runtime.model_card import Architecture, Label, Training
from service.runtime.preprocessing import Preprocessing

MEAN_IMAGE = "mean_image"  # key of a tensor beside the weights: float32 (3, crop, crop) in 0 to 255


class Record(BaseModel):
    """What a file says about its weights, so that evaluating, fine-tuning or exporting them needs no options.

    In safetensors the fields are JSON in the metadata; in `.pth`, entries beside `state_dict`.
    """

    model_config = ConfigDict(frozen=True)

    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[Label, ...] | None = None
    accuracy: Accuracy | MultiLabelAccuracy | None = None
    training: Training | None = None
    head: Head = Head()


def record_in(content: Mapping[object, object], path: Path) -> Record:
    """The record among the entries of a file; an empty one if there is none.

    Raises:
        InputError: the record is not valid, or it does not say whether the network is v1 or v1.5.
    """
    # Without an architecture the file is not ours, and entries with these names could mean anything.
    if not isinstance(content.get("architecture"), Mapping):
        return Record()
    try:
        record = Record.model_validate({name: content[name] for name in Record.model_fields if name in content})
    except ValidationError as error:
        first = error.errors()[0]
        field, *place = map(str, first["loc"])
        raise InputError(
            f"{path} records an invalid {field} ({'.'.join(place) or field}: {first['msg']}): save it again from its "
            "training"
        ) from error
    if record.architecture and "variant" not in record.architecture.model_fields_set:  # its default would be a guess
        raise InputError(
            f"{path} records an invalid architecture (it lacks the variant, v1 or v1.5): save it again from its "
            "training"
        )
    return record
