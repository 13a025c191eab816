"""What can become of a call besides its answer.

ResnetError
├── Refused            4xx: the request or its image is at fault; the same request would be refused again
├── Unavailable        429 or 503, also at the last try
├── Failed             any other answer that is not the one asked for: 500, a proxy's 502, a redirect, a page of HTML
├── DeadlineMissed     no answer in time, or 504: the service says that there would be none
└── ConnectionFailed   the service could not be reached, or the connection broke
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

# Refusals that no other image would change: of the caller, the address and the parameters. A problem of an unknown type
# is judged by its status.
ALWAYS_REFUSED_STATUSES = frozenset((401, 403, 404, 405, 407))
ALWAYS_REFUSED_PROBLEMS = frozenset(
    ("ambiguous-model", "model-not-named", "invalid-parameter", "not-explainable", "unknown-parameter")
)
NO_TYPE = "about:blank"  # of a problem that is its status and nothing more (RFC 9457, section 4.2.1)


@dataclass(frozen=True)
class Problem:
    """A problem document (RFC 9457), of the service or made of the answer of a proxy that sends none.

    Attributes:
        type: names the kind of problem: `/problems/truncated-image`. Stable, unlike the texts.
        members: what else the document has: numbers of this case, such as `received` or `retry_after`.
    """

    type: str
    title: str
    status: int
    detail: str
    remedy: str = ""
    request_id: str = ""
    members: Mapping[str, object] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The last part of the type, without the prefix that a proxy may add: `truncated-image`."""
        return self.type.rpartition("/")[2]

    @classmethod
    def read(cls, document: Mapping[str, object]) -> Problem:
        """From its JSON. Raises KeyError, TypeError or ValueError if that is no problem document."""
        status = document["status"]
        if not isinstance(status, int):
            raise TypeError("status is not a number")
        missing = {"type": NO_TYPE, "title": _phrase(status), "detail": "", "remedy": "", "request_id": ""}
        texts = {name: str(document.get(name, default)) for name, default in missing.items()}
        members = {name: value for name, value in document.items() if name not in (*missing, "status")}
        return cls(**texts, status=status, members=members)

    @classmethod
    def of_status(cls, status: int, detail: str) -> Problem:
        """For an answer without a document."""
        return cls(NO_TYPE, _phrase(status), status, detail)

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.title} ({self.status}).", self.detail, self.remedy)))


class ResnetError(Exception):
    """The base.

    Attributes:
        problem: what the service said; None if it said nothing.
        request_id: of this call, at each of its tries: the service's log has it.
    """

    problem: Problem | None

    def __init__(self, message: str, problem: Problem | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.request_id = request_id

    def __str__(self) -> str:
        said = super().__str__()
        return f"{said} [request {self.request_id}]" if self.request_id else said


class Refused(ResnetError):
    """The request is at fault (4xx). `problem` says why, and what to do about it."""

    problem: Problem

    @property
    def whatever_the_image(self) -> bool:
        """Whether another image would be refused, too: the key, the model or a parameter is at fault."""
        return self.problem.status in ALWAYS_REFUSED_STATUSES or self.problem.slug in ALWAYS_REFUSED_PROBLEMS


class Unavailable(ResnetError):
    """The service takes no requests now (429 or 503), and there is no try left or no time for one."""

    problem: Problem


class Failed(ResnetError):
    """The service failed (500), or something else answered in its place."""

    problem: Problem


class DeadlineMissed(ResnetError):
    """No answer in time. `problem` is the service's own (504), or None if the client stopped waiting."""


class ConnectionFailed(ResnetError):
    """No connection, or one that broke. `__cause__` is the error of httpx."""


def _phrase(status: int) -> str:
    """What a status means, in words."""
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown status"
