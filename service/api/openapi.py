"""What the OpenAPI document says that calls with images accept and refuse."""

from __future__ import annotations

from collections.abc import Mapping

from service import errors, json_faults
from service.api.forms import FIELD
from service.api.json_images import JSON_TYPE
from service.api.uploads import IMAGE_TYPES
from service.runtime.faults import ImageFault

BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string", "format": "base64", "description": "The bytes of the file in base64, or as a data URL."}
ENCODED = {
    "oneOf": [
        TEXT,
        {"type": "object", "properties": {"b64": TEXT}, "required": ["b64"], "additionalProperties": False},
    ]
}
FAULTS = (
    *errors.fault_types(ImageFault),
    errors.MalformedRequest,
    errors.RepeatedHeader,
    errors.NoImage,
    json_faults.MalformedJson,
    json_faults.NotBase64,
    json_faults.AddressAsImage,
    errors.AmbiguousModel,
    errors.ModelNotNamed,
    errors.UnknownModel,
    errors.RequestTooLarge,
    errors.RequestNeedsTooMuchMemory,
    errors.TooManyImages,
    errors.UnsupportedMediaType,
    errors.UnsupportedEncoding,
    errors.InvalidParameter,
    errors.UnknownParameter,
    errors.ComputationFailed,
    errors.ModelNotReady,
    errors.ModelFailed,
    errors.MemoryExhausted,
    errors.Stopping,
    errors.Overloaded,
    errors.DeadlineMissed,
)


def headers(described: Mapping[str, str]) -> dict[str, object]:
    """The OpenAPI `headers` of a response: what each holds, by name."""
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def request_body(max_images: int, parameters: Mapping[str, object]) -> dict[str, object]:
    """The OpenAPI `requestBody` of an operation with these parameters, by name."""
    images = "The image" if max_images == 1 else "One or more images"
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {
            FIELD: {
                "type": "array",
                "items": BINARY,
                "minItems": 1,
                "maxItems": max_images,
                "description": f"{images}. The parameters of the query may be fields, too.",
            },
        },
        # Not `properties`: Swagger UI would fill the parameters in and send what it filled in.
        "patternProperties": {f"^{name}$": schema for name, schema in parameters.items()},
        "additionalProperties": False,
    }
    several = {"type": "array", "items": ENCODED, "minItems": 1, "maxItems": max_images}
    # Each form by itself: generators of clients make a type of each, and nothing of conditions on a type.
    json = {
        "oneOf": [
            {
                "title": title,
                "type": "object",
                "properties": {name: schema, **parameters},
                "required": [name],
                "additionalProperties": False,
            }
            for title, name, schema in (("One image", "image", ENCODED), ("Several images", "images", several))
        ]
    }
    raw = {media_type: {"schema": BINARY} for media_type in IMAGE_TYPES}
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": form}, **raw, JSON_TYPE: {"schema": json}},
    }
