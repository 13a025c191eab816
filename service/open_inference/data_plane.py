"""The calls of the protocol, over the models that are served."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from service.admission import Memory, Permit
from service.deadline import Deadline
from service.errors import ServerFault
from service.failed_images import FailedImages
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.model_repository import Model, Repository
from service.open_inference import descriptions, statistics
from service.open_inference.answers import bytes_of, computed_for, tensors, wanted_of
from service.open_inference.descriptions import IndexEntry, ModelConfig, ModelMetadata, ServerMetadata
from service.open_inference.errors import Code, ProtocolError, error_of, invalid
from service.open_inference.images import images_of
from service.open_inference.messages import InferRequest, InferResponse, Parameters
from service.open_inference.statistics import ModelStatistics
from service.pipeline import Pipeline
from service.runtime.faults import Fault
from service.settings import Settings

TIMEOUT = "timeout"  # microseconds
PRIORITY = "priority"
SEQUENCE = "sequence_id"
LONGEST = 2**63 - 1  # microseconds, and the largest priority: what the transports can carry


class DataPlane:
    """Answers the calls of one event loop. Every method may raise ProtocolError, and nothing else."""

    def __init__(
        self,
        repository: Repository,
        lifecycle: Lifecycle[Pipeline],
        settings: Settings,
        memory: Memory,
        metrics: Metrics,
        failed_images: FailedImages,
        ready: Callable[[], bool],
    ) -> None:
        """
        Args:
            ready: whether the server is; cheap.
        """
        self._repository = repository
        self._lifecycle = lifecycle
        self._settings = settings
        self._memory = memory
        self._metrics = metrics
        self._failed_images = failed_images
        self._ready = ready

    @property
    def max_message_bytes(self) -> int:
        """The largest message that a transport should read."""
        return self._settings.max_request_bytes

    def permit(self) -> Permit:
        """What a request holds until its answer; the adapter reserves the bytes of the message in it."""
        return Permit(self._memory)

    def server_ready(self) -> bool:
        return self._ready()

    def server_metadata(self) -> ServerMetadata:
        return descriptions.server()

    def model_ready(self, name: str, version: str = "") -> bool:
        return self.find(name, version).status.state == "ready"

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        return descriptions.describe(self.find(name, version), self._repository)

    def model_config(self, name: str, version: str = "") -> ModelConfig:
        return descriptions.configure(self.find(name, version), self._settings.max_images)

    def repository_index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        return list(descriptions.index(self._repository, ready_only=ready_only))

    async def model_statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        """Of one model, or without a name of all that are ready."""
        ready = [model for model in self._repository.models if model.status.state == "ready"]
        models = [self.find(name, version)] if name else ready
        return [
            await asyncio.to_thread(statistics.read, model.name, str(model.version), self._metrics) for model in models
        ]

    def admit(self, model: Model, deadline: Deadline) -> None:
        """Raises ProtocolError if the queue is too long now, for this deadline or at all, or the model is not ready."""
        try:
            self._lifecycle.active(model).room.check(deadline)
        except ServerFault as fault:
            raise error_of(fault) from None

    def check(self, deadline: Deadline) -> None:
        """Raises ProtocolError if a request of now would wait too long with every model: it is refused unread."""
        rooms = [pipeline.room for pipeline in self._lifecycle.actives]
        if not rooms:
            return
        try:
            min(rooms, key=lambda room: room.wait).check(deadline)
        except Fault as fault:
            raise error_of(fault) from None

    async def infer(self, permit: Permit, request: InferRequest, deadline: Deadline | None = None) -> InferResponse:
        """Computes the outputs that a request asks for. Cancelling it withdraws the images.

        Args:
            permit: holds the bytes of the message, and from here on all else that the request takes.
            deadline: of the transport; a shorter `timeout` of the request counts from now.
        """
        try:
            return await self._infer(permit, request, deadline)
        except Fault as fault:
            raise error_of(fault) from None

    async def _infer(self, permit: Permit, request: InferRequest, deadline: Deadline | None) -> InferResponse:
        model = self.find(request.model_name, request.model_version)
        pipeline, card = self._lifecycle.active(model), model.card
        seconds = min(_seconds(request.parameters), self._settings.request_timeout)
        ends = Deadline.after(seconds) if deadline is None else min(deadline, Deadline.after(seconds))
        wanted = wanted_of(request.outputs, card)
        images = images_of(request.inputs, card.preprocessing.shape, self._settings.max_images, permit)
        permit.enter(pipeline.room)
        permit.reserve_bytes(len(images) * bytes_of(wanted, card))
        top_k = card.architecture.num_classes if card.head.multi_label else 1  # what the metrics count
        answers = await pipeline.classify(permit, images, top_k, ends, outputs=computed_for(wanted))
        classified = []
        for number, answer in enumerate(answers):
            if isinstance(answer, Fault):
                self._failed_images.keep_of(images, answers, model)
                raise error_of(answer, number if len(answers) > 1 else None)
            classified.append(answer)
        outputs = tensors(wanted, [answer.outputs for answer in classified], card)
        return InferResponse(model.name, str(model.version), request.id, outputs, classified)

    def find(self, name: str, version: str = "") -> Model:
        """The version that a request means, ready or not."""
        try:
            return self._repository.get(f"{name}@{version}" if version else name)
        except Fault as fault:
            raise error_of(fault) from None


def _seconds(parameters: Parameters) -> float:
    """The time that a request gives itself; infinite without a `timeout`.

    `priority` is checked and changes nothing: all images wait in one queue, first come, first served.
    """
    for name in (TIMEOUT, PRIORITY):
        value = parameters.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
            raise invalid(f"{name} is {value!r}: give a whole number from 0 (none)")
    if parameters.get(SEQUENCE, 0):
        raise ProtocolError(Code.UNSUPPORTED, "the model keeps nothing between requests: sequences are not supported")
    microseconds = parameters.get(TIMEOUT, 0)
    assert isinstance(microseconds, int)
    return microseconds / 1e6 if microseconds else math.inf
