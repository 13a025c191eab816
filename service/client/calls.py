"""What each call sends, and how its answer is read. Knows no connection."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

import httpx

from service.client import results
from service.client.results import Classification, Explanation, Model, Preview

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

REQUEST_ID = "X-Request-ID"
OK = 200
NOT_READY = 503

Classes: TypeAlias = str | int | Sequence[str | int]
"""Classes by name or id, one or several."""


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def request_id(self) -> str:
        return str(self.headers.get(REQUEST_ID, ""))

    @property
    def document(self) -> Any:
        """The JSON of the body. Raises ValueError."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, which may be sent several times.

    Attributes:
        path: below the address of the service.
        read: makes the result of the answer. Raises KeyError, TypeError or ValueError if the answer is something else.
        image: the body.
        statuses: of answers that `read` understands.
    """

    path: str
    read: Callable[[Answer], T]
    image: bytes | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (OK,)

    @property
    def method(self) -> str:
        return "GET" if self.image is None else "POST"


def classify(
    image: bytes, model: str | None, depth: int | None, top_k: int | None, labels: Classes | None
) -> Call[Classification]:
    def read(answer: Answer) -> Classification:
        return results.classification(answer.document, answer.headers.get("Server-Timing", ""), answer.request_id)

    return Call("/classify", read, image, _given(model=model, depth=depth, top_k=top_k, labels=_listed(labels)))


def explain(
    image: bytes, model: str | None, depth: int | None, classes: Classes | None, top_k: int | None
) -> Call[Explanation]:
    def read(answer: Answer) -> Explanation:
        return results.explanation(answer.document, answer.request_id)

    return Call("/explain", read, image, _given(model=model, depth=depth, classes=_listed(classes), top_k=top_k))


def explain_png(image: bytes, model: str | None, depth: int | None, label: str | int | None) -> Call[bytes]:
    parameters = _given(model=model, depth=depth, classes=_listed(label), format="png")
    return Call("/explain", _png, image, parameters)


def embed(image: bytes, model: str | None, depth: int | None, normalize: bool) -> Call[NDArray[np.float32]]:
    """The result has the shape `(1, dimensions)`."""

    def read(answer: Answer) -> NDArray[np.float32]:
        import numpy as np  # here: classifying needs no arrays

        return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False), np.float32)

    parameters = _given(model=model, depth=depth, normalize="true" if normalize else "false", format="npy")
    return Call("/embed", read, image, parameters)


def preview(image: bytes, model: str | None, depth: int | None) -> Call[Preview]:
    def read(answer: Answer) -> Preview:
        return Preview(_png(answer), answer.headers["X-Model"], answer.headers["X-Decoded"])

    return Call("/preview", read, image, _given(model=model, depth=depth))


def models() -> Call[tuple[Model, ...]]:
    return Call("/models", lambda answer: results.models(answer.document))


def ready() -> Call[bool]:
    return Call("/healthz/ready", lambda answer: answer.status == OK, statuses=(OK, NOT_READY))


def _png(answer: Answer) -> bytes:
    """Raises ValueError if the body is something else."""
    if not answer.content.startswith(b"\x89PNG\r\n"):
        raise ValueError("not a PNG")
    return answer.content


def _given(**parameters: object) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _listed(classes: Classes | None) -> str | None:
    """As the query has it. Raises ValueError if a name has a comma, which separates names there, or there is none."""
    if classes is None:
        return None
    names = [str(one) for one in ([classes] if isinstance(classes, str | int) else classes)]
    if not names:
        raise ValueError("the list of classes is empty: name one, or leave it out")
    for name in names:
        if "," in name:
            raise ValueError(
                f"the name of the class {name!r} has a comma, which separates names: give the class by its id"
            )
    return ",".join(names)
