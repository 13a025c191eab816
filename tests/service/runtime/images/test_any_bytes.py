"""Whatever bytes arrive, decoding ends in a picture or an image fault, after a bounded number of steps."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.runtime.faults import ImageFault
from service.runtime.images.decoding import decode
from service.runtime.images.headers import read_header
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images import hostile
from tests.service.runtime.images.files import of_every_mode
from tests.service.runtime.images.pictures import photograph
from tests.service.runtime.images.steps import lines_run
from tests.support.mutations import CHANGES, changed, tried

TINY = Preprocessing(resize=8, crop=8)
MAX_PIXELS = 100_000
FILES = of_every_mode(photograph(19, 13))
MAX_LINES = 3000  # these files have at most forty segments; a mutation adds few


def outcome(data: bytes) -> str:
    """What becomes of a file: "picture", or the slug of its fault. Anything else is raised."""
    try:
        decoded = decode(data, TINY, max_pixels=MAX_PIXELS)
    except ImageFault as fault:
        return fault.slug
    assert decoded.pixels.shape == (3, 8, 8)
    assert 1 <= decoded.width * decoded.height <= MAX_PIXELS
    assert read_header(data, TINY, max_pixels=MAX_PIXELS).decode_bytes > 0
    return "picture"


@tried(600)
@given(name=st.sampled_from(sorted(FILES)), changes=CHANGES)
@example(name="JPEG RGB", changes=[("end", 0, 0)])
def test_changed_files(name: str, changes: list[tuple[str, int, int]]) -> None:
    data = changed(FILES[name], changes)
    assert lines_run(lambda: outcome(data)) < MAX_LINES


@tried(200)
@given(
    start=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBP"]), rest=st.binary(max_size=300)
)
def test_bytes_behind_a_signature(start: bytes, rest: bytes) -> None:
    assert outcome(start + rest) in ("truncated-image", "corrupt-image", "unsupported-image-format")


@pytest.mark.parametrize("name", FILES)
def test_files_cut_off_anywhere(name: str) -> None:
    data = FILES[name]
    outcomes = [outcome(data[:length]) for length in range(len(data))]
    assert outcome(data) == "picture"
    assert outcomes[0] == "empty-image"
    assert set(outcomes) <= {"empty-image", "not-an-image", "truncated-image", "picture"}
    if name not in ("JPEG progressive", "JPEG restarts"):  # which are pictures behind any scan or before a restart
        # Metadata, checksums and end markers may be missing; pixels may not.
        first = outcomes.index("picture") if "picture" in outcomes else len(data)
        assert set(outcomes[first:]) <= {"picture"}


def test_there_is_no_warning_for_every_damaged_tag() -> None:
    data = hostile.FILES["tags"](0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert outcome(data) == "picture"
        assert not caught
        Image.open(io.BytesIO(data)).getexif()
        assert caught  # Pillow's own


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_mode_in_every_orientation(orientation: int) -> None:
    corners = Image.new("RGB", (2, 2))
    for place, shade in zip([(0, 0), (1, 0), (0, 1), (1, 1)], (51, 102, 153, 204), strict=True):
        corners.putpixel(place, (shade, shade, shade))
    stored = corners.resize((48, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = corners.copy()
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))[..., 0].astype(int)
    for name, data in of_every_mode(stored, orientation).items():
        decoded = decode(data, Preprocessing(resize=32, crop=32), max_pixels=MAX_PIXELS)
        assert (decoded.width, decoded.height) == ((48, 32) if orientation < 5 else (32, 48)), name
        found = decoded.pixels[:, 8:25:16, 8:25:16].astype(int)
        assert np.abs(found - expected).max() < 10, name
