"""What bytes are, by how they begin."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from service import formats
from service.formats import bare, begins_an_image, chunks, ends, mistaken_for_an_image, name_of, significant_bits
from tests.service.png import chunk


def encoded(file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, file_format, **options)
    return buffer.getvalue()


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
def test_what_is_not_served_has_a_name(data: bytes, name: str) -> None:
    assert name_of(data) == name


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "DDS", "PPM", "PDF", "EPS"])
def test_real_files_of_other_formats_have_a_name(file_format: str) -> None:
    assert name_of(encoded(file_format))
    assert ends(encoded(file_format)) is None


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", bytes(100), b"<svgx>", encoded("PNG"), encoded("WEBP")])
def test_the_rest_has_none(data: bytes) -> None:
    assert name_of(data) is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_kinds_of_jpeg(options: dict[str, object]) -> None:
    jpeg = encoded("JPEG", comment="x" * 500, **options)
    assert name_of(jpeg) is None
    frame = jpeg.index(b"\xff\xc2" if options else b"\xff\xc0")

    def changed(at: int, value: int) -> bytes:
        return jpeg[: frame + at] + bytes([value]) + jpeg[frame + at + 1 :]

    assert name_of(changed(4, 12)) == "12-bit JPEG"
    assert name_of(changed(1, 0xC3)) == "lossless JPEG"
    assert name_of(changed(1, 0xC5)) == "hierarchical JPEG"
    assert name_of(changed(1, 0xF7)) == "JPEG-LS"
    assert name_of(jpeg[:frame]) is None  # the frame is not there yet
    assert name_of(jpeg[:frame] + b"\xff" + jpeg[frame:]) is None  # fill bytes before a marker


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"<!DOCTYPE HTML><title>404</title>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data URL"),
        *((base64.b64encode(encoded(file_format)), "base64 text") for file_format in ("JPEG", "PNG", "WEBP")),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer (`git lfs pull` brings the file)"),
        (b'{"image": 1}', "JSON"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"hello", "no known format"),
        (bytes(20), "no known format"),
    ],
)
def test_what_is_sent_by_mistake(data: bytes, found: str) -> None:
    assert mistaken_for_an_image(data) == found


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_ends(file_format: str) -> None:
    data = encoded(file_format)
    assert ends(data) is True
    assert ends(data[:-20]) is False
    assert begins_an_image(data[: formats.BEGINNING])
    assert not begins_an_image(data[1:])


def test_chunks_of_a_png() -> None:
    png = encoded("PNG")
    assert [found.kind for found in chunks(png)] == [b"IHDR", b"IDAT", b"IEND"]
    assert b"".join(png[found.start : found.end] for found in chunks(png)) == png[len(formats.PNG) :]
    assert [found.kind for found in chunks(png[:-3])] == [b"IHDR", b"IDAT", b"IEND"]  # the last is cut
    assert list(chunks(formats.PNG)) == []
    endless = formats.PNG + chunk(b"prVt") * (formats.MOST_CHUNKS + 5)
    assert len(list(chunks(endless))) == formats.MOST_CHUNKS


def test_a_bare_png_has_its_picture_only() -> None:
    png = encoded("PNG")
    header, rest = png[:33], png[33:]
    kept = chunk(b"sBIT", b"\5\6\5") + chunk(b"tRNS", bytes(6)) + chunk(b"eXIf", b"MM")
    full = header + chunk(b"tEXt", b"a\0b") + kept + chunk(b"pHYs", b"?") + rest[:-12] + chunk(b"zTXt") + rest[-12:]
    assert bare(full) == header + kept + rest
    assert bare(png) == png
    for cut in (len(formats.PNG), 20, 40, len(png) - 5):
        assert bare(png[:cut]) == png[:cut]


def test_significant_bits() -> None:
    png = encoded("PNG")
    header, rest = png[:33], png[33:]
    assert significant_bits(png) is None
    assert significant_bits(header + chunk(b"sBIT", b"\5\6\5") + rest) == 6
    assert significant_bits(header + chunk(b"sBIT", b"\x0a\x0a\x0a\x10") + rest) == 10  # the last is of transparency
    assert significant_bits(header + chunk(b"sBIT", b"") + rest) is None
    assert significant_bits(header + rest[:-12] + chunk(b"sBIT", b"\5") + rest[-12:]) is None  # too late to count
