"""File formats, recognised by their first and last bytes without decoding a pixel."""

from __future__ import annotations

import re

from service.runtime.faults import UnsupportedImageFormat

# Pillow opens far more formats than a classification service should parse: most of its CVEs are in those decoders.
SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP")

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"
SIGNATURE_BYTES = 12  # enough to recognise a JPEG, PNG or WebP

# Formats that are not served, by their file signatures. (offset, bytes, name)
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
    (4, b"ftyp", "video"),  # ISO base media format, any other brand
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
# `(?>` gives no comment back: without it, the regex tries every way to group n comments, which are 2 to the power of n.
SVG = re.compile(rb"(<\?xml[^>]*>\s*)?(?>(<!--.*?-->\s*)*)(<!DOCTYPE svg\b[^\[>]*(\[.*?\]\s*)?>\s*)?<svg\b", re.DOTALL)

# Common mistakes: what clients send in place of an image. (first bytes in lower case, name)
MISTAKES = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML"),
    (b"data:image/", "a data URL"),
    (b"/9j/", "base64 text"),  # a JPEG; below, a PNG and a WebP
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


def has_image_signature(head: bytes) -> bool:
    """Whether a file starts like a JPEG, PNG or WebP. `head` is its first `SIGNATURE_BYTES` or more."""
    return head.startswith((JPEG_SIGNATURE, PNG_SIGNATURE)) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def unsupported_format(data: bytes) -> str | None:
    """The name of an image or video format that is not served; None for a served or an unknown format."""
    head = data[:4096]
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return "SVG" if SVG.match(_text(head)) else None


def unsupported(name: str) -> UnsupportedImageFormat:
    """The fault of a file in a format that is not served."""
    return UnsupportedImageFormat(format=name, supported=", ".join(SUPPORTED_FORMATS))


def describe_non_image(data: bytes) -> str:
    """What bytes that are not an image look like, in words: "a web page", "JSON"; else "no known format"."""
    head = _text(data[:4096]).lower()
    return next((name for beginning, name in MISTAKES if head.startswith(beginning)), "no known format")


def has_end(data: bytes) -> bool | None:
    """Whether a JPEG, PNG or WebP reaches its end; None for any other format."""
    if not has_image_signature(data):
        return None
    if data.startswith(JPEG_SIGNATURE):
        return JPEG_END in data[-1024:]  # some cameras append a few bytes
    if data.startswith(PNG_SIGNATURE):
        return b"IEND" in data[-1024:]
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _text(head: bytes) -> bytes:
    """Possible text as UTF-8, without byte order mark and leading whitespace."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()
