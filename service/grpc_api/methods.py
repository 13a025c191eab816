"""The methods of GRPCInferenceService, over the data plane."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from service.api.results import server_timing
from service.grpc_api import messages
from service.grpc_api.calls import Call, Calls
from service.grpc_api.messages import ModelMetadataResponse, StatisticDuration
from service.grpc_api.tensors import message_of, request_of
from service.open_inference.data_plane import DataPlane
from service.open_inference.descriptions import TensorMetadata
from service.open_inference.errors import Code, ProtocolError
from service.open_inference.statistics import Total

SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


class Methods:
    """Each is a `calls.Reply`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def handlers(self, calls: Calls, *, for_operators: bool) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """The handlers by name of method. Keys are needed as for the same calls over HTTP.

        Args:
            for_operators: whether those are among them that tell what the metrics tell.
        """
        path = f"/{SERVICE}/{{}}".format
        probes = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
        }
        open_to_all = {
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "RepositoryIndex": self.repository_index,
        }
        statistics = {"ModelStatistics": calls.handler(path("ModelStatistics"), self.statistics, "metrics")}
        return {
            **{name: calls.handler(path(name), reply, probe=True) for name, reply in probes.items()},
            **{name: calls.handler(path(name), reply) for name, reply in open_to_all.items()},
            "ModelInfer": calls.handler(path("ModelInfer"), self.infer, "classify", infers=True),
            **(statistics if for_operators else {}),
        }

    async def server_live(self, call: Call) -> messages.ServerLiveResponse:
        await call.read(messages.ServerLiveRequest)
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, call: Call) -> messages.ServerReadyResponse:
        await call.read(messages.ServerReadyRequest)
        return messages.ServerReadyResponse(ready=self._plane.server_ready())

    async def model_ready(self, call: Call) -> messages.ModelReadyResponse:
        """As Triton does, it says of an unknown model that it is not ready."""
        request = await call.read(messages.ModelReadyRequest)
        try:
            return messages.ModelReadyResponse(ready=self._plane.model_ready(request.name, request.version))
        except ProtocolError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return messages.ModelReadyResponse(ready=False)

    async def server_metadata(self, call: Call) -> messages.ServerMetadataResponse:
        await call.read(messages.ServerMetadataRequest)
        return messages.ServerMetadataResponse(**self._plane.server_metadata()._asdict())

    async def model_metadata(self, call: Call) -> ModelMetadataResponse:
        request = await call.read(messages.ModelMetadataRequest)
        found = self._plane.model_metadata(request.name, request.version)
        return ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=_described(found.inputs),
            outputs=_described(found.outputs),
        )

    async def model_config(self, call: Call) -> messages.ModelConfigResponse:
        request = await call.read(messages.ModelConfigRequest)
        found = self._plane.model_config(request.name, request.version)
        return messages.ModelConfigResponse(
            config=messages.ModelConfig(
                name=found.name,
                platform=found.platform,
                backend=found.backend,
                max_batch_size=found.max_batch_size,
                input=[messages.ModelInput(**tensor._asdict()) for tensor in found.input],
                output=[messages.ModelOutput(**tensor._asdict()) for tensor in found.output],
            )
        )

    async def repository_index(self, call: Call) -> messages.RepositoryIndexResponse:
        request = await call.read(messages.RepositoryIndexRequest)
        entries = self._plane.repository_index(ready_only=request.ready)
        return messages.RepositoryIndexResponse(
            models=[messages.RepositoryIndexResponse.ModelIndex(**entry._asdict()) for entry in entries]
        )

    async def statistics(self, call: Call) -> messages.ModelStatisticsResponse:
        request = await call.read(messages.ModelStatisticsRequest)
        found = await self._plane.model_statistics(request.name, request.version)
        return messages.ModelStatisticsResponse(
            model_stats=[
                messages.ModelStatistics(
                    name=one.name,
                    version=one.version,
                    inference_count=one.inference_count,
                    execution_count=one.execution_count,
                    inference_stats=messages.InferStatistics(
                        success=_duration(one.success),
                        fail=_duration(one.fail),
                        queue=_duration(one.queue),
                        compute_input=_duration(one.compute_input),
                        compute_infer=_duration(one.compute_infer),
                        compute_output=_duration(one.compute_output),
                    ),
                )
                for one in found
            ]
        )

    async def infer(self, call: Call) -> messages.ModelInferResponse:
        """The answer has its tensors as the request has: raw, or as contents."""
        self._plane.check(call.deadline)
        message = await call.read(messages.ModelInferRequest)
        raw = bool(message.raw_input_contents)
        request = request_of(message)
        del message  # raw bytes are in the request now
        model = self._plane.find(request.model_name, request.model_version)
        call.model = model.name
        call.note(model=model.reference)
        self._plane.admit(model, call.deadline)
        response = await self._plane.infer(call.permit, request, call.deadline)
        call.note(images=len(response.answers))
        call.trailing += [(name.lower(), value) for name, value in server_timing(response.answers).items()]
        return message_of(response, raw=raw)


def _described(tensors: Sequence[TensorMetadata]) -> list[ModelMetadataResponse.TensorMetadata]:
    return [ModelMetadataResponse.TensorMetadata(**tensor._asdict()) for tensor in tensors]


def _duration(total: Total) -> StatisticDuration:
    return StatisticDuration(count=total.count, ns=total.ns)
