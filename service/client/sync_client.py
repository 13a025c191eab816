"""The client for ordinary code; any number of threads may share one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import httpx

from service.client import calls, connection
from service.client.calls import Answer, Call, Classes
from service.client.connection import CONCURRENCY, DEADLINE_S, RETRIES, Verify
from service.client.errors import ConnectionFailed, DeadlineMissed
from service.client.exchange import Broken, Deadline, Send, exchange
from service.client.images import Image, read_image, several
from service.client.results import Classification, Explanation, Model, Outcome, Preview
from service.client.streams import in_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class Client:
    """Calls a service.

    Every call may raise `ResnetError`. What it raises besides: OSError if an image cannot be read, ValueError and
    TypeError for arguments that no call can have.

    A deadline is for the whole call, with all its tries and waits: seconds from its start. What is left of it is sent
    on, and the service stops working when it is over.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline: float = DEADLINE_S,
        retries: int = RETRIES,
        verify: Verify = True,
    ) -> None:
        """
        Args:
            url: the address, with the path prefix if there is one: `https://example.org/resnet`.
            deadline: seconds for calls that name none; may be infinite.
            retries: most tries after the first. Only after 429, 503 and connections that break before an answer.
            verify: certificates that the service's must descend from: a file, or an SSL context, which can also hold
                the client's own. True: those of certifi. False: any certificate.
        """
        connection.check(deadline, retries)
        self._http = httpx.Client(**connection.options(url, api_key, verify))
        self._deadline = deadline
        self._retries = retries

    def classify(
        self,
        image: Image,
        *,
        model: str | None = None,
        depth: int | None = None,
        top_k: int | None = None,
        labels: Classes | None = None,
        deadline: float | None = None,
    ) -> Classification:
        """Classifies one image.

        Args:
            model: by a name that `models` lists; None: the default.
            depth: in the place of a name.
            top_k: how many classes to return; None: 5, or all if there are fewer.
            labels: the only classes that come into question, by names or ids.
        """
        limit = self._limit(deadline)
        return self._run(calls.classify(read_image(image), model, depth, top_k, labels), limit)

    def classify_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = CONCURRENCY,
        ordered: bool = True,
        model: str | None = None,
        depth: int | None = None,
        top_k: int | None = None,
        labels: Classes | None = None,
        deadline: float | None = None,
    ) -> Generator[Outcome[Classification], None, None]:
        """Classifies any number of images, in requests of one image each, and yields what becomes of them.

        An image that cannot be read or is refused is an outcome with an error. A refusal that no other image would
        change (an unknown model, a wrong key) ends the iteration. To leave earlier, `close` it: that waits for the
        answers to requests that have been sent.

        Args:
            images: may be endless: at most 2 * `concurrency` images are held. The next one is taken when an outcome is.
            concurrency: most requests at once.
            ordered: yield outcomes in the order of the images; otherwise as they come.
            deadline: for each image.
        """
        connection.check_concurrency(concurrency)
        self._limit(deadline)

        def work(image: Image, pause: Callable[[float], None]) -> Classification:
            limit = self._limit(deadline)
            return self._run(calls.classify(read_image(image), model, depth, top_k, labels), limit, pause)

        return in_threads(work, several(images), concurrency, ordered)

    def explain(
        self,
        image: Image,
        *,
        classes: Classes | None = None,
        top_k: int | None = None,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> Explanation:
        """The class activation maps of one image, as arrays.

        Args:
            classes: by names or ids; None: all of the model.
            top_k: how many of them, most probable first; None: those that `classes` names, else 1.
        """
        limit = self._limit(deadline)
        return self._run(calls.explain(read_image(image), model, depth, classes, top_k), limit)

    def explain_png(
        self,
        image: Image,
        *,
        label: str | int | None = None,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """The upright image with the map of one class over it, as a PNG file.

        Args:
            label: the class, by name or id; None: the most probable one.
        """
        limit = self._limit(deadline)
        return self._run(calls.explain_png(read_image(image), model, depth, label), limit)

    def embed(
        self,
        images: Iterable[Image],
        *,
        normalize: bool = False,
        concurrency: int = CONCURRENCY,
        model: str | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> NDArray[np.float32]:
        """The pooled features of images: float32 `(images, dimensions)`, in the order of the images.

        The first image with an error ends the call with it.

        Args:
            normalize: to a Euclidean length of 1.
            deadline: for all images together.

        Raises:
            ValueError: there are no images.
        """
        import numpy as np  # here: classifying needs no arrays

        connection.check_concurrency(concurrency)
        limit = self._limit(deadline)

        def work(image: Image, pause: Callable[[float], None]) -> NDArray[np.float32]:
            return self._run(calls.embed(read_image(image), model, depth, normalize), limit, pause)

        with closing(in_threads(work, several(images), concurrency, ordered=True)) as outcomes:
            rows = [outcome.result() for outcome in outcomes]
        if not rows:
            raise ValueError("there are no images to embed")
        return np.concatenate(rows)

    def preview(
        self, image: Image, *, model: str | None = None, depth: int | None = None, deadline: float | None = None
    ) -> Preview:
        """What the network sees of an image."""
        limit = self._limit(deadline)
        return self._run(calls.preview(read_image(image), model, depth), limit)

    def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """The models that the service has."""
        return self._run(calls.models(), self._limit(deadline))

    def ready(self, *, deadline: float | None = None) -> bool:
        """Whether the service takes requests now. Does not try again."""
        try:
            return self._run(calls.ready(), self._limit(deadline), retries=0)
        except (ConnectionFailed, DeadlineMissed):
            return False

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _limit(self, deadline: float | None) -> Deadline:
        return Deadline(self._deadline if deadline is None else deadline)

    def _run(
        self,
        call: Call[T],
        deadline: Deadline,
        pause: Callable[[float], None] = time.sleep,
        retries: int | None = None,
    ) -> T:
        steps = exchange(call, self._retries if retries is None else retries, deadline)
        came: Answer | Broken | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Send):
                came = self._send(call, step, deadline)
            else:
                pause(step.seconds)
                came = None

    def _send(self, call: Call[T], step: Send, deadline: Deadline) -> Answer | Broken:
        answered = False
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.parameters,
            headers=step.headers,
            content=call.image,
            timeout=step.timeout,
        )
        try:
            response = self._http.send(request, stream=True)
            answered = True
            try:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if deadline.left <= 0:  # httpx only limits the time between two pieces
                        return Broken(TimeoutError(), answered)
            finally:
                response.close()
        except httpx.RequestError as error:
            return Broken(error, answered)
        return Answer(response.status_code, response.headers, bytes(body))
