"""Every fault that a client can be told of, as problem documents (RFC 9457).

    Problem
    ├── ImageProblem                 one image is at fault; its neighbours in the request are answered
    │   ├── EmptyImage               400
    │   ├── ImageTooLarge            413  (bytes)
    │   ├── TooManyPixels            413
    │   ├── UnsupportedImageFormat   415
    │   ├── NotAnImage               422
    │   ├── TruncatedImage           422
    │   ├── CorruptImage             422
    │   ├── FormAsImage              422
    │   ├── FileNameAsImage          422
    │   └── TextEncodedImage         422
    ├── RequestProblem               the request as a whole is at fault
    │   ├── UnreadableRequest        400
    │   ├── MalformedRequest         400
    │   ├── RepeatedHeader           400
    │   ├── NoImage                  400
    │   ├── AmbiguousModel           400
    │   ├── UnknownModel             404
    │   ├── NotFound                 404
    │   ├── MethodNotAllowed         405
    │   ├── RequestTooLarge          413
    │   ├── TooManyImages            413
    │   ├── AddressTooLong           414
    │   ├── UnsupportedMediaType     415
    │   ├── UnsupportedEncoding      415
    │   ├── InvalidParameter         422
    │   └── UnknownParameter         422
    └── ServerProblem                the server is at fault
        ├── InternalError            500
        ├── ModelFailed              503
        ├── ModelNotReady            503
        └── Overloaded               503

A class carries what is the same each time (status, title, remedy); an instance fills in the numbers. `slug` is the
stable name to program against: the `type` member is `/problems/<slug>`, a page that the service itself answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import ClassVar


class Problem(Exception):
    """The base: `detail` and `remedy` are format strings over the keyword arguments, which become members too."""

    status: ClassVar[int]
    title: ClassVar[str]
    detail: ClassVar[str]
    remedy: ClassVar[str]
    slug: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, **members: object) -> None:
        self.members = members
        super().__init__(self.detail.format(**members))

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to this problem."""
        return {}

    def document(self, root_path: str = "") -> dict[str, object]:
        """The members of the problem document.

        Args:
            root_path: the prefix under which clients see the service.
        """
        return {
            "type": f"{root_path}/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            "remedy": self.advice(),
            **self.members,
        }

    def advice(self) -> str:
        """The remedy, in this case."""
        return self.remedy.format(**self.members)


class ImageProblem(Problem):
    """One image is at fault."""


class EmptyImage(ImageProblem):
    status = 400
    title = "The image is empty"
    detail = "The upload has no bytes."
    remedy = "Send the bytes of a JPEG, PNG or WebP file; with curl, check that the path after @ is right."


class ImageTooLarge(ImageProblem):
    status = 413
    title = "The image has too many bytes"
    detail = "The image has {bytes} bytes; at most {max_bytes} are accepted."
    remedy = "Send a smaller or more strongly compressed picture: the network sees it at a few hundred pixels anyway."


class TooManyPixels(ImageProblem):
    status = 413
    title = "The image has too many pixels"
    detail = "The image is {width}x{height} pixels; at most {max_pixels} pixels are decoded."
    remedy = "Scale the picture down before sending it: the network sees it at a few hundred pixels anyway."


class UnsupportedImageFormat(ImageProblem):
    status = 415
    title = "The image format is not supported"
    detail = "This is a file of another format ({format}); supported are {supported}."
    remedy = "Convert the picture to one of the supported formats."


class NotAnImage(ImageProblem):
    status = 422
    title = "Not an image"
    detail = "The upload is not a JPEG, PNG or WebP image: it begins like {found}."
    remedy = "Send the unmodified bytes of an image file (not base64, not a data URL, not an HTML page)."


class TruncatedImage(ImageProblem):
    status = 422
    title = "The image is truncated"
    detail = "The image ends before its last pixel: {received} bytes were received."
    remedy = "Send the file again, whole; if it is damaged where it is stored, replace it."


class CorruptImage(ImageProblem):
    status = 422
    title = "The image is damaged"
    detail = "The image cannot be decoded: {reason}"
    remedy = "Open the file in a viewer; if it is damaged there too, replace it, otherwise save it anew and send that."


class FormAsImage(ImageProblem):
    status = 422
    title = "The body is a form"
    detail = "The body begins like a form (multipart/form-data), but the request's content type is {content_type}."
    remedy = (
        "Leave the content type to the HTTP client: it names the boundary, too. `curl -F file=@photo.jpg`, without -H."
    )


class FileNameAsImage(ImageProblem):
    status = 422
    title = "The name of a file is not the file"
    detail = "Instead of an image came the name of one: {name}."
    remedy = "Send the file's bytes: with curl, `-F file=@photo.jpg` or `--data-binary @photo.jpg`, with the @."


class TextEncodedImage(ImageProblem):
    status = 422
    title = "The image has been sent as text"
    detail = (
        "The body is no whole image. It has no line ends, and the content type application/x-www-form-urlencoded: it "
        "seems to have gone through `curl -d`, which removes them, or the encoding of a form."
    )
    remedy = "Use `curl --data-binary @FILE`, or `curl -F file=@FILE`."


class RequestProblem(Problem):
    """The request as a whole is at fault."""


class UnreadableRequest(RequestProblem):
    status = 400
    title = "The request cannot be read"
    detail = "The request is not HTTP/1.1 as it should be: {reason}."
    remedy = "Let an HTTP client build the request, and the URL with its parameters."


class MalformedRequest(RequestProblem):
    status = 400
    title = "The request body cannot be read"
    detail = "The multipart body is malformed: {reason}"
    remedy = "Let the HTTP client build the body and its boundary: `curl -F file=@photo.jpg`."


class RepeatedHeader(RequestProblem):
    status = 400
    title = "A header is given more than once"
    detail = "The request has more than one header {header}: {values}."
    remedy = "Send it once."


class NoImage(RequestProblem):
    status = 400
    title = "The request holds no image"
    detail = "The form needs its images in one field, as files; found: {found}."
    remedy = "Send each image as a file in a field named `file`: `curl -F file=@photo.jpg -F file=@other.jpg`."


class AmbiguousModel(RequestProblem):
    status = 400
    title = "More than one model has this depth"
    detail = "Depth {depth} is that of {candidates}."
    remedy = "Say which with `?model=`."


class UnknownModel(RequestProblem):
    status = 404
    title = "There is no such model"
    detail = "No model with {wanted} is served."
    remedy = "Choose one of: {available}."


class NotFound(RequestProblem):
    status = 404
    title = "There is nothing here"
    detail = "{path} is not a path of this service."
    remedy = "See / for what is where, and /docs to try it."


class MethodNotAllowed(RequestProblem):
    status = 405
    title = "The method is not allowed"
    detail = "{path} does not answer {method}."
    remedy = "Use {allowed}."

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": str(self.members["allowed"])}


class RequestTooLarge(RequestProblem):
    status = 413
    title = "The request has too many bytes"
    detail = "The body is larger than {max_bytes} bytes."
    remedy = "Send fewer images in a request, or smaller ones."


class TooManyImages(RequestProblem):
    status = 413
    title = "The request holds too many images"
    detail = "At most {max_images} images are accepted in one request."
    remedy = "Split the images over several requests; they are batched together on the server all the same."


class AddressTooLong(RequestProblem):
    status = 414
    title = "The URL is too long"
    detail = "The URL has {bytes} bytes; at most {max_bytes} are read."
    remedy = "Send images in the body: `curl -F file=@photo.jpg`. The parameters need a few bytes only."


class UnsupportedMediaType(RequestProblem):
    status = 415
    title = "The content type is not supported"
    detail = "The request's content type is {content_type}."
    remedy = "Send the bytes of one image as image/jpeg, image/png or image/webp, or any number as multipart/form-data."


class UnsupportedEncoding(RequestProblem):
    status = 415
    title = "The body is encoded"
    detail = "The request's content encoding is {encoding}."
    remedy = "Send the body as it is, without Content-Encoding: images are compressed already."


class InvalidParameter(RequestProblem):
    status = 422
    title = "A parameter has a wrong value"
    detail = "{parameter} is '{value}': {reason}"
    remedy = "Correct the parameter; /docs lists each one with its range."


class UnknownParameter(RequestProblem):
    status = 422
    title = "There is no such parameter"
    detail = "The request has the parameter `{parameter}`, which is not known."
    remedy = "Did you mean `{nearest}`? The parameters are {known}."

    def advice(self) -> str:
        return super().advice() if "nearest" in self.members else f"The parameters are {self.members['known']}."


class ServerProblem(Problem):
    """The server is at fault: the same request may be answered later, or by another replica."""


class InternalError(ServerProblem):
    status = 500
    title = "The server failed"
    detail = "Something went wrong inside the service; the fault is in its log."
    remedy = "Send the request again; if it fails again, report it with the time of the request."


class ModelFailed(ServerProblem):
    status = 503
    title = "The model could not be loaded"
    detail = "The model {model} is published, but this server could not load it."
    remedy = "Choose another model; the server's operator finds the reason in /models."


class RetryLater(ServerProblem):
    """Carries `retry_after`, in seconds."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.members["retry_after"])}


class ModelNotReady(RetryLater):
    status = 503
    title = "The model is not ready"
    detail = "The model {model} is still being loaded."
    remedy = "Send the request again when /healthz/ready says so."


class Overloaded(RetryLater):
    status = 503
    title = "The service is overloaded"
    detail = "{queued} images are waiting; at most {max_queue} may."
    remedy = "Send the request again after {retry_after} s (measured from how fast the queue drains)."


def retry_after_seconds(queued: int, images_per_second: float) -> int:
    """Whole seconds until `queued` images have drained at a measured rate, at least 1 (RFC 9110, section 10.2.3)."""
    if images_per_second <= 0:
        return 1
    return max(1, math.ceil(queued / images_per_second))


def problem_types(base: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Every concrete problem, depth first: those that have a status."""
    for cls in base.__subclasses__():
        if "status" in cls.__dict__:
            yield cls
        yield from problem_types(cls)
