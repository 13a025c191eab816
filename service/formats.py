"""What the bytes of an upload are, told without decoding a pixel: formats by their signatures, and a PNG's chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
BEGINNING = 12  # bytes that tell what is served

# How files of formats that are not served begin (file signatures as in their specifications). (offset, bytes, name)
SIGNATURES = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"CR\x02\0", "camera raw"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (0, b"IIRO", "camera raw"),
    (0, b"IIRS", "camera raw"),
    (0, b"IIU\0", "camera raw"),
    (4, b"ftypcrx ", "camera raw"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"II\xbc", "JPEG XR"),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "HEIC")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
    ),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"mif1", b"msf1", b"mif2", b"miaf", b"avci", b"avcs")),
    (4, b"ftyp", "video"),  # of the ISO base media format, by whatever brand
    (8, b"AVI LIST", "video"),
    (0, b"\x1aE\xdf\xa3", "video"),  # Matroska and WebM
    (0, b"FLV\x01", "video"),
    (0, b"OggS", "video"),
    (0, b"\0\0\x01\xba", "video"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\0\0\x02\0\x01", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"8BPS", "PSD"),
    (0, b"gimp xcf", "XCF"),
    (128, b"DICM", "DICOM"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"%PDF", "PDF"),
    *((0, b"P%d" % kind + space, "PNM") for kind in range(1, 8) for space in (b"\n", b" ", b"\r", b"\t")),
    *((0, b"P" + kind + b"\n", "PFM") for kind in (b"F", b"f")),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
)
SVG = re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg\b[^\[>]*(\[.*?\]\s*)?>\s*)?<svg\b", re.DOTALL)

# What is sent in place of an image, by mistake. (how it begins, in lower case; name)
MISTAKES = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML"),
    (b"data:image/", "a data URL"),
    (b"/9j/", "base64 text"),  # of a JPEG, a PNG and a WebP
    (b"ivborw0kggo", "base64 text"),
    (b"uklgr", "base64 text"),
    (b"version https://git-lfs", "a Git LFS pointer (`git lfs pull` brings the file)"),
    (b"http://", "an address"),
    (b"https://", "an address"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"pk\x03\x04", "a ZIP archive"),
)

# Frames of a JPEG that hold no DCT coefficients of 8-bit samples in one pass over all scales (ITU-T T.81, table B.1).
OTHER_FRAMES = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical JPEG",
    0xF7: "JPEG-LS",  # ITU-T T.87
}
FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}

# Chunks of a PNG beside the critical ones that change what is shown (PNG specification, section 11.3).
OF_THE_PICTURE = (b"tRNS", b"sBIT", b"eXIf")
MOST_CHUNKS = 10_000  # that are looked through


class Chunk(NamedTuple):
    """A chunk of a PNG (PNG specification, section 5.3)."""

    kind: bytes
    content: memoryview
    start: int  # of the whole chunk, in bytes of the file
    end: int


def begins_an_image(head: bytes) -> bool:
    """Whether these are the first bytes, `BEGINNING` of them or more, of a JPEG, PNG or WebP."""
    return head.startswith((JPEG, PNG)) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def name_of(data: bytes) -> str | None:
    """The format of an image or video that is not served; None for what is served, or no format at all."""
    if data.startswith(JPEG):
        return _jpeg_of_another_kind(data)
    head = data[:4096]
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return "SVG" if SVG.match(_text(head)) else None


def mistaken_for_an_image(data: bytes) -> str:
    """What the bytes are that are no image, in words."""
    head = _text(data[:4096]).lower()
    return next((name for beginning, name in MISTAKES if head.startswith(beginning)), "no known format")


def ends(data: bytes) -> bool | None:
    """Whether a JPEG, PNG or WebP has its end; None for anything else."""
    if not begins_an_image(data):
        return None
    if data.startswith(JPEG):
        return END_OF_JPEG in data[-1024:]  # some cameras write a little behind it
    if data.startswith(PNG):
        return b"IEND" in data[-1024:]
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def chunks(data: bytes) -> Iterator[Chunk]:
    """The first `MOST_CHUNKS` chunks of a PNG."""
    view = memoryview(data)
    at = len(PNG)
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(view):
            return
        length = int.from_bytes(view[at : at + 4])
        yield Chunk(bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length], at, min(at + 12 + length, len(view)))
        at += 12 + length


def significant_bits(data: bytes) -> int | None:
    """How many bits of the samples of a PNG were measured, the most of all colours; None where it does not say."""
    for kind, content, _, _ in chunks(data):
        if kind == b"IDAT":
            return None
        if kind == b"sBIT":
            return max(content[:3], default=None)
    return None


def bare(data: bytes) -> bytes:
    """A PNG with nothing but its picture: without texts, profiles, times and the like."""
    kept = bytearray(PNG)
    end = len(PNG)
    for kind, _, start, end in chunks(data):
        if kind[:1].isupper() or kind in OF_THE_PICTURE:
            kept += data[start:end]
    return bytes(kept) + data[end:]


def _jpeg_of_another_kind(data: bytes) -> str | None:
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in OTHER_FRAMES:
            return OTHER_FRAMES[marker]
        if marker in FRAMES:
            bits = data[at + 4]
            return f"{bits}-bit JPEG" if bits != 8 else None
        if marker == 0xDA:  # the picture begins
            return None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _text(head: bytes) -> bytes:
    """Bytes that may be text, without byte order mark and leading blanks; UTF-16 as UTF-8."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()
