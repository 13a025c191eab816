"""Images in JSON: base64 or data URLs, of whatever shape a protocol gives them.

JSON (RFC 8259) comes from strangers. Its bytes are limited by `max_request_bytes`. Its values are counted before it is
parsed: twenty million empty lists of three bytes each would take a gigabyte. Of a member that is there twice, the last
counts. NaN, half a surrogate pair and bytes that are not UTF-8 are not JSON.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic_core import from_json

from service.admission import Permit
from service.errors import TooManyImages
from service.json_faults import AddressAsImage, MalformedJson, NotBase64
from service.threads import on_thread

JSON_TYPE = "application/json"
# Opening brackets and commas, also those within texts: `labels` may name thousands of classes.
MOST_VALUES = 10_000
VALUES_OF_IMAGE = 8  # besides, for each image that a request may have
MOST_CHARACTERS = 65_535  # of a parameter: as many as an address may have
COPIES = 2  # of a body, while it is read: its bytes and its texts
SMALL = 65_536  # bytes; a thread would start later than such a body is parsed and decoded
SLICE = 2**20  # bytes looked at or decoded at once: other threads get their turn in between

EXPECTED = '{"image": "base64 or a data URL"} or {"images": ["...", {"b64": "..."}]}, with parameters as members'
WHOLE_NUMBERS = ("depth", "top_k")
PARAMETERS = "depth and top_k as whole numbers, other parameters as texts"

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]{1,20})://", re.IGNORECASE)
FILE_NAME = re.compile(r"[^\0-\x1f\x7f]{1,255}\.[A-Za-z0-9]{2,5}")
DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
URL_SAFE = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5


class Encoded(NamedTuple):
    """One image as text, and where in the JSON it is."""

    place: str
    text: str


class Content(NamedTuple):
    """What a body holds: images, and parameters by name."""

    images: list[Encoded]
    fields: list[tuple[str, str]]


# How a protocol lays out images and parameters: finds them in the members of the JSON object. Raises MalformedJson.
Layout = Callable[[Mapping[str, object]], Content]


async def read_images(
    body: bytearray, permit: Permit, layout: Layout, max_images: int
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The images of a JSON body, decoded from base64, and its parameters. Large ones are read on a thread.

    Args:
        body: emptied once it is parsed. What holds its bytes then holds the decoded ones: they are fewer.
        permit: holds the texts while both are there.

    Raises:
        MalformedJson, NotBase64, AddressAsImage, TooManyImages, MemoryExhausted
    """
    permit.reserve_bytes((COPIES - 1) * len(body))
    if len(body) <= SMALL:
        return _read(body, layout, max_images)
    return await on_thread(_read, body, layout, max_images)


def layout_of_classify(members: Mapping[str, object]) -> Content:
    """`{"image": X}` or `{"images": [X, ...]}`, and the parameters of the query as members.

    X is base64, a data URL, or `{"b64": base64}`.
    """
    fields = fields_of({name: value for name, value in members.items() if name not in ("image", "images")})
    if ("image" in members) == ("images" in members):
        found = "both image and images" if "image" in members else "neither image nor images"
        raise MalformedJson(reason=f"it has {found}", expected=EXPECTED)
    if "image" in members:
        return Content([image_of(members["image"], "image")], fields)
    listed = list_of(members["images"], "images", EXPECTED)
    return Content([image_of(value, place) for place, value in listed], fields)


def list_of(value: object, name: str, expected: str) -> list[tuple[str, object]]:
    """The entries of a list that is not empty, with their places. Raises MalformedJson."""
    if not isinstance(value, list) or not value:
        raise MalformedJson(reason=f"{name} is {described(value)}, not a list of images", expected=expected)
    return [(f"{name}[{index}]", entry) for index, entry in enumerate(value)]


def image_of(value: object, place: str) -> Encoded:
    """An image as base64, as a data URL or as `{"b64": base64}`. Raises MalformedJson."""
    if isinstance(value, dict) and list(value) == ["b64"]:
        value, place = value["b64"], f"{place}.b64"
    if not isinstance(value, str):
        raise MalformedJson(
            reason=f"{place} is {described(value)}, not an image", expected='an image as base64 or {"b64": "base64"}'
        )
    return Encoded(place, value)


def fields_of(members: Mapping[str, object]) -> list[tuple[str, str]]:
    """Parameters as the query would give them. Raises MalformedJson if one has the wrong type, or is endless."""
    fields = []
    for name, value in members.items():
        if name in WHOLE_NUMBERS:
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # 5.0 is a whole number in JSON, too
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, str)
        if not fits:
            wanted = "a whole number" if name in WHOLE_NUMBERS else "a text"
            raise MalformedJson(reason=f"{name[:100]} is {described(value)}, not {wanted}", expected=PARAMETERS)
        text = str(value)
        if max(len(name), len(text)) > MOST_CHARACTERS:
            raise MalformedJson(
                reason=f"{name[:100]} has more than {MOST_CHARACTERS} characters", expected="shorter parameters"
            )
        fields.append((name, text))
    return fields


def described(value: object) -> str:
    """A JSON value in words."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        names = ", ".join(name[:40] for name in list(value)[:5])
        return f"an object with {names}" if names else "an empty object"
    return "a text" if isinstance(value, str) else "a number"


def _read(body: bytearray, layout: Layout, max_images: int) -> tuple[list[bytes], list[tuple[str, str]]]:
    found = layout(_parse(body, MOST_VALUES + VALUES_OF_IMAGE * max_images))
    body.clear()
    if len(found.images) > max_images:
        raise TooManyImages(max_images=max_images)
    images = []
    while found.images:  # each text is let go once it is decoded
        images.append(_decode(found.images.pop(0)))
    return images, found.fields


def _parse(body: bytearray, most_values: int) -> dict[str, object]:
    slices = (body[at : at + SLICE] for at in range(0, len(body), SLICE))
    if sum(piece.count(sign) for piece in slices for sign in b"[{,") > most_values:
        raise MalformedJson(
            reason=f"it has more than {most_values} values, as pixels written as numbers have",
            expected="image files in base64, not pixels",
        )
    try:
        parsed = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedJson(reason=str(error), expected="valid JSON in UTF-8") from None
    if not isinstance(parsed, dict):
        raise MalformedJson(reason=f"it is {described(parsed)}, not an object", expected="an object")
    return parsed


def _decode(image: Encoded) -> bytes:
    """The bytes of one image. Raises NotBase64 or AddressAsImage."""
    text, place = image.text, image.place
    start = 0
    if text[:5].lower() == "data:":
        header = DATA_URL.match(text)
        if header is None or not header[1].lower().endswith(";base64"):
            raise NotBase64(place=place, reason="a data URL begins `data:image/jpeg;base64,`")
        start = header.end()
    elif address := ADDRESS.match(text):
        raise AddressAsImage(place=place, scheme=address[1])
    elif FILE_NAME.fullmatch(text):
        raise NotBase64(place=place, reason="it looks like the name of a file")
    try:
        return _from_base64(text, start)
    except (UnicodeEncodeError, binascii.Error):
        raise NotBase64(place=place, reason="it has other characters than A to Z, a to z, 0 to 9, + and /") from None
    except EOFError:
        raise NotBase64(place=place, reason="it ends too soon, or something was lost") from None


def _from_base64(text: str, start: int) -> bytes:
    """The bytes that a text means from `start` on: both alphabets of RFC 4648, with blanks and line ends.

    Raises:
        EOFError: it ends within a byte.
        UnicodeEncodeError, binascii.Error: it has other characters.
    """
    end = len(text.rstrip("=\r\n\t "))
    decoded, rest = [], b""
    for at in range(start, end, SLICE):
        piece = rest + text[at : min(at + SLICE, end)].encode("ascii").translate(URL_SAFE, b"\r\n\t ")
        if b"=" in piece:  # within the text: what follows would count as another one
            raise binascii.Error
        whole = len(piece) - len(piece) % 4
        decoded.append(binascii.a2b_base64(piece[:whole], strict_mode=True))
        rest = piece[whole:]
    if len(rest) == 1:
        raise EOFError
    if rest:
        decoded.append(binascii.a2b_base64(rest + b"=" * (4 - len(rest)), strict_mode=True))
    return b"".join(decoded)
