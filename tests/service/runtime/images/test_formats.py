"""Recognising files by their bytes."""

from __future__ import annotations

import base64

import pytest

from service.runtime.images.formats import (
    SIGNATURE_BYTES,
    describe_non_image,
    has_end,
    has_image_signature,
    unsupported_format,
)
from tests.service.runtime.images.pictures import RED, encode


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0", "HEIF"),
        (b"\0\0\0\x18ftypavis\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera raw"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"MM\0+\0\x08\0\0", "BigTIFF"),
        (b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"P6\n2 2\n255\n" + bytes(12), "PNM"),
        (b"%PDF-1.7", "PDF"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made by hand -->\n<!DOCTYPE svg PUBLIC "x">\n<svg>', "SVG"),
        (b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" [<!ENTITY a "b">]>\n<svg>', "SVG"),
        ('<?xml version="1.0" encoding="utf-16"?>\n<svg>'.encode("utf-16"), "SVG"),
    ],
)
def test_unsupported_formats_have_a_name(data: bytes, name: str) -> None:
    assert unsupported_format(data) == name


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "DDS", "PPM", "PDF", "EPS"])
def test_real_files_of_unsupported_formats_have_a_name(file_format: str) -> None:
    assert unsupported_format(encode(RED, file_format))
    assert has_end(encode(RED, file_format)) is None


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8", bytes(100), b"<svgx>", encode(RED, "PNG"), encode(RED, "WEBP")]
)
def test_supported_and_unknown_formats_have_no_name(data: bytes) -> None:
    assert unsupported_format(data) is None


def test_a_thousand_comments_are_read_once() -> None:
    """Not in every way to group them, which no computer would finish."""
    comments = b"<!---->" * 1000
    assert unsupported_format(comments) is None
    assert unsupported_format(comments[:3500] + b"<svg>") == "SVG"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"<!DOCTYPE HTML><title>404</title>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data URL"),
        *((base64.b64encode(encode(RED, file_format)), "base64 text") for file_format in ("JPEG", "PNG", "WEBP")),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer (`git lfs pull` brings the file)"),
        (b'{"image": 1}', "JSON"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"hello", "no known format"),
        (bytes(20), "no known format"),
    ],
)
def test_common_mistakes(data: bytes, found: str) -> None:
    assert describe_non_image(data) == found


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_signature_and_end(file_format: str) -> None:
    data = encode(RED, file_format)
    assert has_end(data) is True
    assert has_end(data[:-20]) is False
    assert has_image_signature(data[:SIGNATURE_BYTES])
    assert not has_image_signature(data[1:])
