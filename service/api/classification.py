"""From a request to the answers for its images: what every protocol that classifies does alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request, Response

from service import errors
from service.api import problems
from service.api.guard import Guard, Handler
from service.api.intake import Intake, Reader, to_its_end, unless_disconnected
from service.api.results import Wanted
from service.api.uploads import Upload, diagnose, read_body
from service.failed_images import FailedImages
from service.metrics import STAGES, Metrics
from service.model_repository import Model
from service.pipeline import Classified
from service.runtime.engine import EngineInfo
from service.runtime.faults import Fault


class Answered(NamedTuple):
    """A request and what became of its images, in its order."""

    model: Model
    engine: EngineInfo
    wanted: Wanted
    uploads: list[Upload]
    answers: list[Classified | Fault]

    def every(self) -> list[Classified]:
        """The answers, for protocols that know no error of a single image.

        Raises:
            Fault: that of the first image without an answer; of several images, `image` says which, from 0.
        """
        answered = []
        for number, answer in enumerate(self.answers):
            if isinstance(answer, Fault):
                if len(self.answers) > 1:
                    answer.members["image"] = number
                raise answer
            answered.append(answer)
        return answered

    def only(self) -> Classified:
        """The answer to a request of one image. Raises SeveralImages, or the image's fault."""
        if len(self.answers) > 1:
            raise errors.SeveralImages(images=len(self.answers))
        return self.every()[0]


class Classification:
    """Classifies the images of requests."""

    def __init__(self, intake: Intake, metrics: Metrics, guard: Guard, failed_images: FailedImages) -> None:
        self._intake = intake
        self._metrics = metrics
        self._guard = guard
        self._failed_images = failed_images

    async def answer(
        self,
        request: Request,
        known: Sequence[str],
        *,
        model: str | None = None,
        read: Reader = read_body,
        by_default_all: bool = False,
    ) -> Answered:
        """
        Args:
            known, model, read: as of `Intake.take`.
            by_default_all: find every class, not the five best, unless the request says how many or which.

        Raises:
            Fault: no image was looked at.
        """
        with self._intake.permit() as permit:
            order = await self._intake.take(request, permit, known, model=model, read=read)
            wanted = order.wanted.all_classes if by_default_all and not order.wanted.narrowed else order.wanted
            images = [upload.data for upload in order.uploads]
            work = order.pipeline.classify(permit, images, wanted.computed, order.deadline)
            engine = order.model.status.info  # of a model that is active
            assert engine is not None
            answers = await unless_disconnected(request.receive, work)
        if any(isinstance(answer, Fault) for answer in answers):
            self._keep_failed(order.model, order.uploads, answers)
            answers = [
                diagnose(answer, upload, request) if isinstance(answer, Fault) else answer
                for upload, answer in zip(order.uploads, answers, strict=True)
            ]
        return Answered(order.model, engine, wanted, order.uploads, answers)

    def protected(self, handler: Handler) -> Handler:
        """The handler behind the guard. Every request is counted by model, status and problem."""
        guarded = to_its_end(self._guard.protect("classify", handler))

        async def counted(request: Request) -> Response:
            status, problem = 500, errors.InternalError.slug
            try:
                response = await guarded(request)
                status, problem = response.status_code, ""
                return response
            except Fault as fault:
                status, problem = problems.status_of(fault), fault.slug
                raise
            finally:
                self._metrics.requests.labels(getattr(request.state, "model", "unknown"), status, problem).inc()

        return counted

    def _keep_failed(self, model: Model, uploads: Sequence[Upload], answers: Sequence[Classified | Fault]) -> None:
        """What failed for want of time or room would not fail again, and is not kept."""
        found = [
            (number, upload.data)
            for number, (upload, answer) in enumerate(zip(uploads, answers, strict=True))
            if isinstance(answer, errors.ComputationFailed | errors.InternalError)
        ]
        self._failed_images.keep(found, {"model": model.name, "version": model.version, "images": len(answers)})


def server_timing(answers: Sequence[Classified]) -> dict[str, str]:
    """The Server-Timing header (W3C), in milliseconds; of several images, the longest of each stage."""
    if not answers:
        return {}
    *stages, total = (f"{stage};dur={1000 * max(answer.seconds[stage] for answer in answers):.2f}" for stage in STAGES)
    largest = max(answer.batch_size for answer in answers)
    return {"Server-Timing": ", ".join([*stages, f'batch;desc="{largest}"', total])}
