"""The base of all parts of a model card."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CardPart(BaseModel):
    """Keeps the fields of later releases, which it does not know."""

    model_config = ConfigDict(extra="allow", frozen=True)
