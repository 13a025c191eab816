"""What every call of the port has: an id, a key, a deadline, a status, a line in the log and a measurement."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from grpc.aio import ServicerContext

from service import request_ids
from service.admission import Permit
from service.api.access import CLIENT_LEFT, own_attributes, write_line
from service.api.guard import Guard, Visit, tokens_of
from service.deadline import Deadline
from service.errors import InternalError, Stopping
from service.grpc_api.statuses import Refusal, refusal_of
from service.grpc_api.wire import Malformed, memory_of
from service.keys import Scope
from service.metrics import Metrics
from service.open_inference.errors import ProtocolError, invalid
from service.runtime.faults import Fault
from service.settings import Settings
from service.tracing import traces

if TYPE_CHECKING:
    from service.tracing.spans import Spans, Traced

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

REQUEST_ID = request_ids.HEADER.lower()  # gRPC's metadata is in lower case
OK = 200  # the HTTP status of an answer, for metrics that have one
# Codes that OpenTelemetry counts as failures of a server.
FAILED = frozenset(
    (
        *(StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL),
        *(StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS),
    )
)
OTHER_PARTS = 1000  # of a message, beside its images


class Call:
    """One call, as the methods of the service see it.

    Attributes:
        permit: what it holds until its end.
        deadline: of the client; infinite if it has none.
        model: the name of the model that it asks for, once it is known.
        trailing: what its answer says besides, as metadata.
    """

    def __init__(
        self, requests: AsyncIterator[bytes], context: ServicerContext[bytes, bytes], permit: Permit, settings: Settings
    ) -> None:
        left = context.time_remaining()
        self.permit = permit
        self.model = "unknown"
        self.trailing: list[tuple[str, str]] = []
        self.deadline = Deadline.after(math.inf if left is None else left)
        self.noted: dict[str, object] = {"client": _address(context.peer())}
        self._requests = requests
        self._metadata = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
        # What a body of the largest size may take over the slowest connection. gRPC does not show how far one is.
        self._patience = settings.client_timeout + settings.max_request_bytes / settings.min_body_rate
        self._most_parts = OTHER_PARTS + settings.max_images

    def note(self, **facts: object) -> None:
        """Adds to the line of this call. Nothing that a client could have written as it pleased."""
        self.noted |= facts

    def metadata(self, name: str) -> Iterable[str]:
        """The values that the client sent under a name in lower case."""
        return (value for key, value in self._metadata if key == name)

    async def read(self, kind: type[M]) -> M:
        """The message of the call, whose memory the permit holds from here on.

        Raises:
            ProtocolError: it does not come, or is not of this kind.
            MemoryExhausted
        """
        try:
            async with asyncio.timeout(self._patience):
                data = await anext(self._requests)
        except StopAsyncIteration:
            raise invalid("the call carries no message: send one") from None
        except TimeoutError:
            raise invalid(f"the message has not arrived within {self._patience:.0f} s: send a smaller one") from None
        self.note(bytes=len(data))
        try:
            self.permit.reserve_bytes(memory_of(data, kind, self._most_parts))
            return kind.FromString(data)
        except (DecodeError, Malformed) as error:
            raise invalid(f"the message is not a {kind.DESCRIPTOR.name} as the protocol has it: {error}") from None


Reply = Callable[[Call], Awaitable[Message]]


class Calls:
    """The calls that are in the service."""

    def __init__(
        self,
        guard: Guard,
        metrics: Metrics,
        spans: Spans | None,
        permit: Callable[[], Permit],
        settings: Settings,
    ) -> None:
        self._guard = guard
        self._metrics = metrics
        self._spans = spans
        self._permit = permit
        self._settings = settings
        self._running: set[asyncio.Task[object]] = set()
        self._refusing = False
        self._ending = False

    def refuse(self) -> None:
        """Refuses calls that begin from here on: others may take them."""
        self._refusing = True

    async def end(self, seconds: float) -> None:
        """Returns when all calls have ended. Refuses those that have not after `seconds`, or when it is cancelled."""
        if not self._running:
            return
        try:
            await asyncio.wait(self._running, timeout=seconds)
        finally:
            self._ending = True
            for task in self._running:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def handler(
        self, path: str, reply: Reply, scope: Scope | None = None, *, probe: bool = False, infers: bool = False
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a method with one message each way.

        gRPC would read the message before it calls the handler of such a method. As one that receives a stream, which
        is the same on the wire, it is asked first: what needs no message is refused without it.

        Args:
            path: `/service/method`.
            scope: what a key must allow; None for a method that is open to everybody.
            infers: counted among the requests for inference, as over HTTP.
            probe: asked every few seconds, and of no interest while it is answered well.
        """

        async def answer(requests: AsyncIterator[bytes], context: ServicerContext[bytes, bytes]) -> bytes:
            started = time.perf_counter()
            code, status, problem = StatusCode.CANCELLED, CLIENT_LEFT, ""
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            self._metrics.grpc_in_flight.inc()
            with self._permit() as permit:
                call = Call(requests, context, permit, self._settings)
                request_id = (REQUEST_ID, request_ids.begin(next(iter(call.metadata(REQUEST_ID)), None)))
                trace = self._spans.begin(call.metadata, path[1:], started) if self._spans and infers else None
                traces.begin(trace)
                said = (request_id, (traces.RESPONSE, trace.response)) if trace else (request_id,)
                try:
                    answered = await self._answer(call, reply, scope)
                    if isinstance(answered, Refusal):
                        code, status, problem = answered.code, answered.http_status, answered.slug
                        await context.abort(code, answered.message, (*said, *answered.trailing))
                    context.set_trailing_metadata((*said, *call.trailing))
                    code, status = StatusCode.OK, OK
                    return answered
                except asyncio.CancelledError:
                    code = _why_cancelled(call)
                    raise
                finally:
                    self._running.discard(task)
                    took = time.perf_counter() - started
                    self._metrics.grpc_in_flight.dec()
                    if infers:
                        self._metrics.requests.labels(call.model, status, problem).inc()
                    self._metrics.grpc.labels(path.rpartition("/")[2], code.name).observe(
                        took, trace.ids if trace else None
                    )
                    level = logging.DEBUG if probe and code is StatusCode.OK else logging.INFO
                    write_line(level, "gRPC", path, code.name, took, call.noted)
                    if trace:
                        self._end_trace(trace, call, path[1:], code, request_id[1], started, took)

        return grpc.stream_unary_rpc_method_handler(answer)

    def _end_trace(
        self, trace: Traced, call: Call, method: str, code: StatusCode, request_id: str, started: float, took: float
    ) -> None:
        """Makes the spans, with OpenTelemetry's names for what belongs to gRPC."""
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "rpc.response.status_code": code.name,
            "client.address": call.noted["client"],
            "resnet.request_id": request_id,
            **own_attributes(call.noted),
        }
        failed = code in FAILED
        error = str(call.noted.get("problem", code.name if failed else ""))
        assert self._spans
        self._spans.end(trace, started, took, method, attributes, error, failed=failed)

    async def _answer(self, call: Call, reply: Reply, scope: Scope | None) -> bytes | Refusal:
        """The answer as bytes, or why there is none."""
        refusal: Refusal | None = None
        try:
            if self._refusing:
                raise Stopping(retry_after=1)
            tokens = tokens_of(call.metadata("authorization"), call.metadata("x-api-key"))
            with self._guard.admit(scope, tokens, call.note) if scope else nullcontext(Visit()) as visit:
                visit.http_status = CLIENT_LEFT  # if it does not come to its end
                try:
                    data = (await reply(call)).SerializeToString()
                    visit.http_status = OK
                    return data
                except (Fault, ProtocolError) as error:
                    refusal = refusal_of(error)
                except asyncio.CancelledError:
                    if not self._ending:
                        raise
                    refusal = refusal_of(Stopping(retry_after=1))
                except Exception:
                    log.exception("a call failed unexpectedly")
                    refusal = refusal_of(InternalError())
                visit.http_status = refusal.http_status
        except Fault as fault:  # of the guard, or the end
            refusal = refusal_of(fault)
        call.note(problem=refusal.slug)
        return refusal


def _why_cancelled(call: Call) -> StatusCode:
    """gRPC cancels a call when its client does, when its connection breaks, and at its deadline."""
    return StatusCode.DEADLINE_EXCEEDED if call.deadline.left <= 0 else StatusCode.CANCELLED


def _address(peer: str) -> str:
    """The client's address, from `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "-"
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
