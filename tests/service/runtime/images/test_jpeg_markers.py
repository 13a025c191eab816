"""The segments of JPEG files: what is kept of them, and how many segments, tables and scans are read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.runtime.faults import CorruptImage, ImageFault, TooComplexImage, TruncatedImage, UnsupportedImageFormat
from service.runtime.images.decoding import load_pixels, open_image
from service.runtime.images.headers import MAX_PASSES, read_layout
from service.runtime.images.jpeg_markers import MAX_JUNK, MAX_SCANS, MAX_TABLE_BYTES
from service.runtime.images.layout import MAX_PARTS, Layout
from tests.service.runtime.images.jpeg import insert, segment, with_scans, without_metadata
from tests.service.runtime.images.pictures import RED, encode, photograph

PICTURE = photograph(90, 61)
JPEG = encode(PICTURE, "JPEG", quality=92)
PROGRESSIVE = encode(PICTURE, "JPEG", quality=92, progressive=True)
SCANS = PROGRESSIVE.count(b"\xff\xda")


def layout(data: bytes, max_pixels: int = 10**9) -> Layout:
    return read_layout(data, max_pixels)


def fault(data: bytes, max_pixels: int = 10**9) -> ImageFault:
    with pytest.raises(ImageFault) as raised:
        open_image(data, max_pixels)
    return raised.value


def exif(orientation: int, **others: Any) -> Image.Exif:
    """EXIF of a camera, with a thumbnail."""
    written = Image.Exif()
    written[0x0112] = orientation
    written[0x010F] = "Maker"
    written.get_ifd(0x8769)[0x927C] = encode(RED, "JPEG")  # a maker note that looks like a JPEG
    return written


def assert_opens_as_in_pillow(data: bytes) -> None:
    """Checks pixels and orientation against those of the whole file, which Pillow parses."""
    whole = Image.open(io.BytesIO(data))
    opened = open_image(data, 10**9)
    loaded = load_pixels(opened)
    assert np.array_equal(np.asarray(loaded), np.asarray(whole.convert("RGB")))
    assert opened.layout.orientation == whole.getexif().get(0x0112, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exif": exif(6)},
        {"exif": exif(3), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
        {"icc_profile": bytes(200_000), "comment": b"x" * 60_000},
        {"xmp": b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'},
        {"xmp": b"<x/>", "exif": exif(8), "comment": b"\xff\xda\xff\xd9"},
        {"exif": exif(5), "progressive": True, "restart_marker_rows": 1},
        {"keep_rgb": True, "exif": exif(7)},
        {"subsampling": "4:2:0", "exif": exif(2), "optimize": True, "dpi": (300, 300)},
    ],
    ids=["plain", "exif", "icc", "large", "xmp", "all", "progressive", "adobe", "dpi"],
)
def test_real_files_open_as_in_pillow(mode: str, options: dict[str, Any]) -> None:
    data = encode(PICTURE.convert(mode), "JPEG", quality=92, **options)
    assert_opens_as_in_pillow(data)
    assert layout(data).stripped(data) == without_metadata(data)
    assert_opens_as_in_pillow(data + b"SEFT trailer \xff\xd8\xff\xda" * 50)  # of a phone


def test_several_pictures_in_one_file_are_the_first() -> None:
    data = encode(PICTURE, "MPO", save_all=True, append_images=[Image.new("RGB", (90, 61))], exif=exif(6))
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_opens_as_in_pillow(data)


def test_photoshop_and_flashpix_segments() -> None:
    resources = b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10" + bytes(16)
    assert_opens_as_in_pillow(insert(JPEG, segment(0xED, resources) + segment(0xE2, b"FPXR\0" + bytes(30))))


def test_without_metadata_nothing_is_copied() -> None:
    assert layout(JPEG).stripped(JPEG) is JPEG
    assert layout(PROGRESSIVE).stripped(PROGRESSIVE) is PROGRESSIVE


def test_exif_in_pieces_is_put_together() -> None:
    block = exif(6).tobytes().removeprefix(b"Exif\0\0")
    for size in (len(block), 9, 1):
        pieces = [segment(0xE1, b"Exif\0\0" + block[at : at + size]) for at in range(0, len(block), size)]
        assert layout(insert(JPEG, b"".join(pieces))).orientation == 6


def test_bytes_between_segments_are_left_out() -> None:
    for junk in (b"junk", b"\xff" * 100, b"\xff\0" * 100, b"\xff\xd0\xff\xd9\xff\xd8", bytes(MAX_JUNK - 2)):
        data = insert(JPEG, segment(0xFE, b"comment") + junk)
        assert layout(data).stripped(data) == JPEG
        assert np.array_equal(
            np.asarray(load_pixels(open_image(data, 10**9))), np.asarray(Image.open(io.BytesIO(JPEG)))
        )


@pytest.mark.parametrize("junk", [b"\0", b"\xff", b"\xff\0"])
def test_bytes_between_segments_are_counted(junk: bytes) -> None:
    part = junk * (MAX_JUNK // 4)
    assert isinstance(fault(insert(JPEG, segment(0xFE).join([b"", *[part] * 6]))), TooComplexImage)
    assert isinstance(fault(JPEG[:20] + junk * 100), TruncatedImage)


def test_segments_are_counted() -> None:
    assert layout(insert(JPEG, segment(0xFE) * (MAX_PARTS - 20))).width == 90
    for marker in (0xFE, 0xE1, 0xDC):
        error = fault(insert(JPEG, segment(marker) * MAX_PARTS))
        assert isinstance(error, TooComplexImage)
        assert "more than 4000 segments" in str(error)
    assert isinstance(fault(insert(JPEG, b"\xff\xd0" * MAX_PARTS)), TooComplexImage)
    between_scans = PROGRESSIVE[:-2] + segment(0xFE) * MAX_PARTS + PROGRESSIVE[-2:]
    assert isinstance(fault(between_scans), TooComplexImage)


def test_tables_are_limited() -> None:
    table = segment(0xDB, b"\0" + bytes(range(1, 65)))
    few = MAX_TABLE_BYTES // len(table) - 10
    assert layout(insert(JPEG, table * few)).width == 90
    assert isinstance(fault(insert(JPEG, table * (few + 100))), TooComplexImage)


def test_scans_are_counted() -> None:
    assert layout(PROGRESSIVE).passes == SCANS
    assert layout(with_scans(PROGRESSIVE, MAX_SCANS - SCANS)).passes == MAX_SCANS
    error = fault(with_scans(PROGRESSIVE, MAX_SCANS - SCANS + 1))
    assert isinstance(error, TooComplexImage)
    assert "more than 100 scans" in str(error)


def test_scans_are_limited_by_pixels() -> None:
    pixels = 90 * 61
    allowed = with_scans(PROGRESSIVE, MAX_PASSES - SCANS)
    assert layout(allowed, pixels).passes == MAX_PASSES
    error = fault(with_scans(PROGRESSIVE, MAX_PASSES - SCANS + 1), pixels)
    assert isinstance(error, TooComplexImage)
    assert (error.members["found"], error.members["most"]) == (MAX_PASSES + 1, MAX_PASSES)
    assert isinstance(fault(with_scans(PROGRESSIVE, MAX_SCANS), pixels), TooComplexImage)


def test_scans_are_those_of_this_picture() -> None:
    """Not those in metadata or behind the end."""
    thumbnail = segment(0xE1, b"\xff\xda" * 2000)
    parts = PROGRESSIVE.split(b"\xff\xc4")
    assert layout(thumbnail.join([parts[0], b"\xff\xc4" + b"\xff\xc4".join(parts[1:])])).passes == SCANS
    between_scans = PROGRESSIVE[:-2] + thumbnail + PROGRESSIVE[-2:]
    assert layout(between_scans).passes == SCANS
    assert layout(PROGRESSIVE + PROGRESSIVE * 20).passes == SCANS
    assert layout(PROGRESSIVE[:-2]).passes == SCANS
    assert layout(JPEG + b"\xff\xda" * 1000).passes == 1


def test_an_arithmetic_coded_scan_counts_more() -> None:
    """Few of its bytes can stand for any number of coefficients."""
    arithmetic = JPEG.replace(b"\xff\xc0", b"\xff\xc9")
    assert layout(arithmetic).passes == 16
    assert isinstance(fault(PROGRESSIVE.replace(b"\xff\xc2", b"\xff\xca"), 90 * 61), TooComplexImage)


def test_a_sequential_file_with_a_scan_for_each_component() -> None:
    grey = encode(PICTURE.convert("L"), "JPEG")
    frame = grey.index(b"\xff\xc0")
    three = bytearray(grey[:frame] + segment(0xC0, grey[frame + 4 : frame + 9] + b"\3\1\x11\0\2\x11\0\3\x11\0"))
    three += grey[frame + 13 :]
    scan = grey[grey.index(b"\xff\xda") : -2]
    second, third = (scan[:5] + bytes([component]) + scan[6:] for component in (2, 3))
    data = bytes(three[:-2] + second + third + b"\xff\xd9")
    assert layout(data).passes == 3
    colours = np.asarray(load_pixels(open_image(data, 10**9)))
    assert colours.shape == (61, 90, 3)


@pytest.mark.parametrize("jpeg", [JPEG, PROGRESSIVE], ids=["sequential", "progressive"])
def test_kinds_of_jpeg(jpeg: bytes) -> None:
    jpeg = insert(jpeg, segment(0xFE, b"x" * 500))
    frame = jpeg.index(b"\xff\xc2" if b"\xff\xc2" in jpeg else b"\xff\xc0")

    def changed(at: int, value: int) -> ImageFault:
        return fault(jpeg[: frame + at] + bytes([value]) + jpeg[frame + at + 1 :])

    for at, value, name in (
        (4, 12, "12-bit JPEG"),
        (1, 0xC3, "lossless JPEG"),
        (1, 0xC5, "hierarchical JPEG"),
        (1, 0xF7, "JPEG-LS"),
    ):
        error = changed(at, value)
        assert isinstance(error, UnsupportedImageFormat)
        assert error.members["format"] == name
    for at, value in ((1, 0xC8), (1, 0xF0), (1, 2), (9, 2), (11, 0x50), (11, 0)):  # unknown markers, odd components
        assert isinstance(changed(at, value), CorruptImage)
    assert isinstance(fault(jpeg[:frame] + b"\xff\xd9"), CorruptImage)
    header = jpeg[frame : frame + 19]
    assert isinstance(fault(jpeg[:frame] + header + jpeg[frame:]), CorruptImage)  # two frames
    assert isinstance(fault(jpeg[:frame]), TruncatedImage)
    assert layout(jpeg[:frame] + b"\xff" + jpeg[frame:]).width == 90  # fill bytes before a marker
