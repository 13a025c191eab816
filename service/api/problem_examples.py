"""One of each fault, for the examples of the OpenAPI document."""

from __future__ import annotations

from service import errors, json_faults, upload_faults
from service.runtime import faults
from service.runtime.faults import Fault

FAULTS: tuple[Fault, ...] = (
    # one image
    faults.EmptyImage(),
    faults.TooManyPixels(width=12000, height=9000, format="JPEG", max_pixels=64_000_000),
    faults.TooComplexImage(found="more than 100", parts="scans", most=100),
    faults.UnsupportedImageFormat(format="GIF", supported="JPEG, PNG, WebP"),
    faults.NotAnImage(found="a web page"),
    faults.TruncatedImage(received=4000),
    faults.CorruptImage(reason="its header is damaged"),
    upload_faults.ImageTooLarge(bytes=31_457_280, max_bytes=20_971_520),
    upload_faults.TooMuchMemory(bytes=900_000_000, max_bytes=805_306_368),
    upload_faults.FormAsImage(content_type="image/jpeg"),
    upload_faults.FileNameAsImage(name="photo.jpg"),
    upload_faults.TextEncodedImage(),
    # the whole request
    errors.UnreadableRequest(reason="its URL contains characters that must be percent-encoded"),
    errors.MalformedRequest(reason="it ends before its closing boundary"),
    errors.RepeatedHeader(header="Content-Type", values="image/jpeg, image/png"),
    errors.NoImage(found="nothing"),
    errors.SeveralImages(images=2),
    json_faults.MalformedJson(reason="it is a list, not an object", expected="an object"),
    json_faults.NotBase64(place="image", reason="it looks like the name of a file"),
    json_faults.AddressAsImage(place="images[2]", scheme="https"),
    errors.NotExplainable(model="resnet50", reason="it was published without classifier.npy, by an older release"),
    errors.AmbiguousModel(depth=50, candidates="resnet50, resnet50-flowers"),
    errors.ModelNotNamed(candidates="resnet18, resnet50"),
    errors.UnknownModel(wanted="the name resnet34", available="resnet18, resnet50, resnet50@canary"),
    errors.NotFound(path="/clasify"),
    errors.MethodNotAllowed(path="/classify", method="GET", allowed="POST"),
    errors.RequestTooLarge(max_bytes=67_108_864),
    errors.RequestNeedsTooMuchMemory(bytes=300_000_000, max_bytes=268_435_456),
    errors.TooManyImages(max_images=32),
    errors.AddressTooLong(bytes=70_000, max_bytes=65_535),
    errors.HeadersTooLarge(max_bytes=65_536, part="request line and headers"),
    errors.RequestTimeout(part="body", limit="at least 16384 bytes a second are expected"),
    errors.UnsupportedMediaType(content_type="text/html"),
    errors.UnsupportedEncoding(encoding="gzip"),
    errors.InvalidParameter(
        parameter="top_k", value="0", reason="give a whole number from 1 to 1000 (the classes of resnet50)."
    ),
    errors.UnknownParameter(parameter="topk", known="model, depth, top_k, labels", nearest="top_k"),
    # who may call
    errors.Unauthorized(reason="The request carries no key"),
    errors.Forbidden(key="web", scope="admin"),
    errors.CallClosed(scope="admin"),
    errors.RateLimited(key="web", rate=10.0, burst=20, retry_after=1),
    errors.TooManyAtOnce(key="web", concurrency=8),
    # the server
    errors.InternalError(),
    errors.ComputationFailed(),
    errors.ModelFailed(model="resnet50"),
    errors.ModelNotReady(model="resnet50", retry_after=5),
    errors.MemoryExhausted(bytes=60_000_000, held=230_000_000, memory_bytes=268_435_456, retry_after=1),
    errors.TooManyConnections(retry_after=1),
    errors.Stopping(retry_after=1),
    errors.Overloaded.by(3.2, 2.0),
    errors.DeadlineMissed(timeout_ms=30_000, reason="the answer takes longer"),
)
