"""What can be wrong with images that are sent as JSON. Each of these is the fault of the whole request."""

from __future__ import annotations

from service.errors import RequestFault


class MalformedJson(RequestFault):
    title = "The JSON body cannot be read"
    detail = "The body is not the JSON that this call reads: {reason}."
    remedy = "Send {expected}."


class NotBase64(RequestFault):
    title = "An image is not base64"
    detail = "{place} is not base64: {reason}."
    remedy = (
        "Send the bytes of the image file in base64, in Python `base64.b64encode(data).decode()`, or as a data URL."
    )


class AddressAsImage(RequestFault):
    title = "An address was sent instead of the image"
    detail = "{place} is an address ({scheme}:). The service fetches nothing."
    remedy = "Get the file yourself and send its bytes: in base64, as a data URL, or not as JSON but as a form."
