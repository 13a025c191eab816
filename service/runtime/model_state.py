"""What is kept of a model beside its versions, in `models/<name>/model.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.runtime.model_folder import CardError

STATE_FILE = "model.json"


class ModelState(BaseModel):
    """
    Attributes:
        last_version: the highest number that a version has had; later versions have higher ones, also after a removal.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    last_version: int = Field(default=0, ge=0)


def read_state(folder: Path) -> ModelState:
    """The state of the model with this folder; that of a new one if there is none.

    Raises:
        CardError: the file cannot be read, or it is damaged.
    """
    path = folder / STATE_FILE
    try:
        return ModelState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return ModelState()
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CardError(
            f"{path} is damaged: {where}: {first['msg']}; restore it, or delete it, after which numbers of removed "
            "versions may be used again"
        ) from error
