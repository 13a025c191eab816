"""Rows: what is known of one input once it is classified, or cannot be. Knows neither files nor formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from service.runtime.faults import Fault


class Problem(NamedTuple):
    """Why an input has no answer, in the words of the service's problem documents.

    Attributes:
        slug: the stable name to program against.
    """

    slug: str
    title: str
    detail: str
    remedy: str

    @classmethod
    def of(cls, fault: Fault) -> Problem:
        return cls(fault.slug, fault.title, str(fault), fault.advice())

    def entry(self) -> dict[str, Any]:
        """The entry of an image that has no answer, as in the answer to `/classify`."""
        return {
            "error": {
                "type": f"/problems/{self.slug}",
                "title": self.title,
                "detail": self.detail,
                "remedy": self.remedy,
            }
        }


class Answer(NamedTuple):
    """What a model says of an image, or why it says nothing.

    Attributes:
        model, version: what has answered.
        entry, overlay: as for `Row`.
    """

    model: str
    version: int
    entry: Mapping[str, Any]
    overlay: bytes | None = None


class Row(NamedTuple):
    """One input and its answer.

    Attributes:
        file: the input's name.
        model, version: what has answered.
        entry: as an image's entry in the answer to `/classify`, without `file`: `width`, `height`, `predictions`, and
            what the model's head adds; or `error`.
        overlay: a PNG of the whole image with the map of its best class over it; None if nobody asked, or for `error`.
    """

    file: str
    model: str
    version: int
    entry: Mapping[str, Any]
    overlay: bytes | None = None

    @property
    def problem(self) -> Problem | None:
        error = self.entry.get("error")
        if error is None:
            return None
        slug = str(error["type"]).rpartition("/")[2]
        return Problem(slug, error["title"], error["detail"], error["remedy"])

    @property
    def answer(self) -> tuple[str, ...]:
        """The labels that the model answers with: one; of multi-label models those present; none if rejected."""
        if "labels" in self.entry:
            return tuple(present["label"] for present in self.entry["labels"])
        if self.entry.get("rejected") or not self.entry.get("predictions"):
            return ()
        return (self.entry["predictions"][0]["label"],)
