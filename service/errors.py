"""Every fault that a client can be told about. Their HTTP statuses are in `api.problems`.

Fault                 title, detail, remedy
├── ImageFault        one image is at fault; its neighbours in the request are answered (`runtime.faults` of decoding,
│                     `upload_faults` of sending)
├── RequestFault      the request as a whole is at fault
└── ServerFault       the server is at fault
    └── RetryLater    and says when to come back
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from service.runtime.faults import Fault


class RequestFault(Fault):
    """The request as a whole is at fault."""


class UnreadableRequest(RequestFault):
    title = "The request cannot be read"
    detail = "The request is not valid HTTP/1.1: {reason}."
    remedy = "Let an HTTP client build the request and encode the URL's parameters."


class MalformedRequest(RequestFault):
    title = "The request body cannot be read"
    detail = "The multipart body is malformed: {reason}"
    remedy = "Let the HTTP client build the body and its boundary: `curl -F file=@photo.jpg`."


class RepeatedHeader(RequestFault):
    title = "A header is given more than once"
    detail = "The request has more than one header {header}: {values}."
    remedy = "Send it once."


class NoImage(RequestFault):
    title = "The request holds no image"
    detail = "A form must carry its images as files in one field; found: {found}."
    remedy = "Send each image as a file in a field named `file`: `curl -F file=@photo.jpg -F file=@other.jpg`."


class AmbiguousModel(RequestFault):
    title = "Several models have this depth"
    detail = "Models of depth {depth}: {candidates}."
    remedy = "Choose one with `?model=`."


class ModelNotNamed(RequestFault):
    title = "The request names no model"
    detail = "Several models are served, and none of them is the default."
    remedy = (
        "Choose one with `?model=`: {candidates}. The operator can name a default: `python -m model_export default`."
    )


class UnknownModel(RequestFault):
    title = "There is no such model"
    detail = "No model with {wanted} is served."
    remedy = "Choose one of: {available}."


class NotFound(RequestFault):
    title = "There is nothing here"
    detail = "This service has no path {path}."
    remedy = "/ lists the paths; /docs explains the service's own calls and lets you try them."


class MethodNotAllowed(RequestFault):
    title = "The method is not allowed"
    detail = "{path} does not answer {method}."
    remedy = "Use {allowed}."


class RequestTooLarge(RequestFault):
    title = "The request has too many bytes"
    detail = "The body is larger than {max_bytes} bytes."
    remedy = "Send fewer images in a request, or smaller ones."


class RequestNeedsTooMuchMemory(RequestFault):
    title = "The request needs too much memory"
    detail = "The request and its answer need {bytes} bytes; one request gets at most {max_bytes}."
    remedy = "Send fewer images in a request, or ask for less of them: fewer outputs, classes or pictures."


class TooManyImages(RequestFault):
    title = "The request holds too many images"
    detail = "At most {max_images} images are accepted in one request."
    remedy = "Split the images over several requests; the server batches them together anyway."


class SeveralImages(RequestFault):
    title = "The request holds several images"
    detail = "This call takes one image at a time; the request holds {images}."
    remedy = "Send one request for each image."


class NotExplainable(RequestFault):
    title = "The model's answers cannot be explained"
    detail = "{model} cannot be explained: {reason}."
    remedy = "Choose another model with `?model=`, or publish this one again from its weights, with this release."


class AddressTooLong(RequestFault):
    title = "The URL is too long"
    detail = "The URL has {bytes} bytes; at most {max_bytes} are read."
    remedy = "Send images in the body: `curl -F file=@photo.jpg`. The parameters need only a few bytes."


class HeadersTooLarge(RequestFault):
    title = "The headers are too large"
    detail = "The request has more than {max_bytes} bytes of {part}."
    remedy = "Send fewer and shorter headers, and a chunked body in larger chunks without trailers."


class RequestTimeout(RequestFault):
    title = "The request arrived too slowly"
    detail = "The {part} did not arrive in time: {limit}."
    remedy = "Send the request again, over a faster connection or with a smaller picture."


class UnsupportedMediaType(RequestFault):
    title = "The content type is not supported"
    detail = "The request's content type is {content_type}."
    remedy = "Send one image as image/jpeg, image/png or image/webp, or any number as a form or as JSON with base64."


class UnsupportedEncoding(RequestFault):
    title = "The body is encoded"
    detail = "The request's content encoding is {encoding}."
    remedy = "Send the body without Content-Encoding: images are already compressed."


class InvalidParameter(RequestFault):
    title = "A parameter has a wrong value"
    detail = "{parameter} is '{value}': {reason}"
    remedy = "Correct the parameter; /docs lists each one with its range."


class UnknownParameter(RequestFault):
    title = "There is no such parameter"
    detail = "The request has an unknown parameter `{parameter}`."
    remedy = "Did you mean `{nearest}`? The parameters are {known}."

    def advice(self) -> str:
        return super().advice() if "nearest" in self.members else f"The parameters are {self.members['known']}."


class Unauthorized(RequestFault):
    """May carry `error`, the code of RFC 6750, section 3.1: `invalid_token` if a key was sent."""

    title = "The call needs a key"
    detail = "{reason}."
    remedy = (
        "Send a key of this service as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Its operator hands out keys."
    )


class Forbidden(RequestFault):
    title = "The key does not allow this call"
    detail = "The key {key} lacks the scope {scope}."
    remedy = "Use a key with this scope. The operator sets the scopes of a key."


class CallClosed(RequestFault):
    title = "The call is closed"
    detail = "This call needs a key with the scope {scope}, and the service has no keys."
    remedy = "Operator: make a key with `python -m service.keys new`, and set RESNET_API_KEYS_FILE."


class RateLimited(RequestFault):
    """Carries `retry_after`, in seconds."""

    title = "The key sends too many requests"
    detail = "The key {key} may send {rate} requests a second, {burst} at once."
    remedy = "Send the request again after {retry_after} s."


class TooManyAtOnce(RequestFault):
    title = "The key has too many requests in the service"
    detail = "The key {key} may have {concurrency} requests in the service at once."
    remedy = "Wait for the answer to an earlier request before you send the next."


class ServerFault(Fault):
    """The server is at fault: the same request may succeed later, or on another replica."""


class InternalError(ServerFault):
    title = "The server failed"
    detail = "Something went wrong inside the service; its log has the details."
    remedy = "Send the request again. If it fails again, report it with the time of the request."


class ComputationFailed(ServerFault):
    title = "The image could not be computed"
    detail = "The service failed on this image; its log has the details."
    remedy = "Send the request again. If it fails again, report it with the time of the request."


class DeadlineMissed(ServerFault):
    title = "The answer would come too late"
    detail = "The limit is {timeout_ms} ms for the request: {reason}."
    remedy = (
        "Send the request again when the service has less to do, or with more time: in X-Request-Timeout-Ms, or as the "
        "deadline of a gRPC call. The service has a limit of its own, too."
    )


class ModelFailed(ServerFault):
    title = "The model could not be loaded"
    detail = "Model {model} is published, but this server could not load it."
    remedy = "Choose another model. /models gives the reason, the server's log all of it."


class RetryLater(ServerFault):
    """Carries `retry_after`, in seconds."""


class ModelNotReady(RetryLater):
    title = "The model is not ready"
    detail = "Model {model} is still loading."
    remedy = "Send the request again once /healthz/ready answers 200."


class MemoryExhausted(RetryLater):
    title = "There is no memory for the request now"
    detail = "The request needs {bytes} bytes, and others hold {held} of {memory_bytes}."
    remedy = "Send the request again after {retry_after} s. Smaller requests find room first."


class TooManyConnections(RetryLater):
    title = "There are too many connections"
    detail = "The server has as many open connections as it accepts, and all are in use."
    remedy = "Send the request again after {retry_after} s, and use few connections for many requests."


class Stopping(RetryLater):
    title = "The server is stopping"
    detail = "The server stopped before it could answer the request."
    remedy = (
        "Send the request again after {retry_after} s: another replica, or this one once it has restarted, answers."
    )


class Overloaded(RetryLater):
    title = "The service is overloaded"
    detail = "An image would wait {wait_ms} ms; the limit is {target_wait_ms} ms."
    remedy = "Send the request again after {retry_after} s: then the queue has drained below the limit."

    @classmethod
    def by(cls, wait: float, target: float) -> Overloaded:
        """
        Args:
            wait, target: seconds. `retry_after` is when the wait will have fallen to the target, in whole seconds, at
                least 1 (RFC 9110, section 10.2.3).
        """
        return cls(
            wait_ms=math.ceil(1000 * wait),
            target_wait_ms=round(1000 * target),
            retry_after=max(1, math.ceil(wait - target)),
        )


def fault_types(base: type[Fault] = Fault) -> Iterator[type[Fault]]:
    """Every concrete fault, depth first."""
    for cls in base.__subclasses__():
        if "title" in cls.__dict__:
            yield cls
        yield from fault_types(cls)
