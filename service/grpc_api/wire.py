"""What a message takes in memory, found from its bytes before it is parsed.

A message of a million empty parts has two bytes for each, and takes a hundred once it is parsed.
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

PART_BYTES = 100  # what each part takes beside its content, as an upper bound
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # https://protobuf.dev/programming-guides/encoding/#structure
# Bytes of an element of a packed field, for each of its bytes on the wire. Those that are missing take no more.
WIDTHS = {
    FieldDescriptor.CPPTYPE_INT32: 4,
    FieldDescriptor.CPPTYPE_UINT32: 4,
    FieldDescriptor.CPPTYPE_INT64: 8,
    FieldDescriptor.CPPTYPE_UINT64: 8,
}


class Malformed(Exception):
    """The bytes are not a message of this kind, or one of too many parts; the text says which."""


def memory_of(data: bytes, kind: type[Message], most_parts: int) -> int:
    """The bytes that a message takes at most once it is parsed.

    Args:
        most_parts: fields, elements that are messages, strings or bytes, and numbers that are not packed.

    Raises:
        Malformed
    """
    memory, parts = 0, 0
    spans = [(0, len(data), kind.DESCRIPTOR)]
    try:
        while spans:
            at, end, found = spans.pop()
            while at < end:
                parts += 1
                if parts > most_parts:
                    raise Malformed(f"it has more than {most_parts} parts: send numbers packed, and fewer images")
                tag, at = _varint(data, at)
                wire_type = tag & 7
                if wire_type == LENGTH:
                    size, at = _varint(data, at)
                    field = found.fields_by_number.get(tag >> 3)
                    if field and field.message_type:
                        spans.append((at, at + size, field.message_type))
                    else:
                        memory += size * WIDTHS.get(field.cpp_type, 1) if field else size
                    at += size
                elif wire_type == VARINT:
                    _, at = _varint(data, at)
                elif wire_type in (FIXED32, FIXED64):
                    at += 4 if wire_type == FIXED32 else 8
                else:
                    raise Malformed("it has a field of an unknown kind")
                if at > end:
                    raise Malformed("it ends too early")
    except IndexError:
        raise Malformed("it ends too early") from None
    return memory + parts * PART_BYTES


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends. Raises IndexError if that is beyond the data."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise Malformed("it has a number of more than ten bytes")
