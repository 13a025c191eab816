"""Pictures of maps over images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.runtime.faults import TruncatedImage
from service.runtime.images.overlay import AGAINST, FOR, LONGEST, OUTSIDE, STRONGEST, overlays
from tests.service.runtime.images.pictures import jpeg_with_orientation

GREY = 128


def png(size: tuple[int, int], mode: str = "RGB", colour: object = (GREY, GREY, GREY)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")  # type: ignore[arg-type]
    return file.getvalue()


def drawn(data: bytes, maps: np.ndarray, box: tuple[float, float, float, float]) -> list[np.ndarray]:
    """uint8 `(height, width, 3)`"""
    files = overlays(data, maps, box, max_pixels=10**8)
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


def blended(colour: tuple[int, int, int], opacity: float) -> np.ndarray:
    return (1 - opacity) * GREY + opacity * np.array(colour)


def test_evidence_for_and_against_has_its_colour_and_its_place() -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 3], maps[0, 3, 0], maps[1, 1, 1] = 2, -1, 1
    first, second = drawn(png((600, 400)), maps, (100, 0, 500, 400))
    assert first.shape == second.shape == (400, 600, 3)
    np.testing.assert_allclose(first[50, 450], blended(FOR, STRONGEST), atol=2)  # the middle of the cell
    np.testing.assert_allclose(first[350, 150], blended(AGAINST, STRONGEST / 2), atol=2)
    np.testing.assert_allclose(first[200, 300], GREY, atol=2)  # nothing speaks there
    np.testing.assert_allclose(second[150, 250], blended(FOR, STRONGEST / 2), atol=2)  # on the scale of the first


def test_what_the_network_does_not_see_is_dark() -> None:
    (picture,) = drawn(png((600, 400)), np.zeros((1, 7, 7), np.float32), (100, 0, 500, 400))
    assert (picture[:, 101:499] == GREY).all()
    np.testing.assert_allclose(picture[:, :99], OUTSIDE * GREY, atol=1)
    np.testing.assert_allclose(picture[:, 501:], OUTSIDE * GREY, atol=1)


def test_a_letterbox_reaches_beyond_the_image() -> None:
    maps = np.zeros((1, 3, 3), np.float32)
    maps[0, 1, 2] = 1
    (picture,) = drawn(png((600, 200)), maps, (0, -200, 600, 400))
    np.testing.assert_allclose(picture[100, 500], blended(FOR, STRONGEST), atol=2)
    np.testing.assert_allclose(picture[100, 100], GREY, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_upright(orientation: int) -> None:
    stored = (200, 80) if orientation < 5 else (80, 200)
    data = jpeg_with_orientation(Image.new("RGB", stored, (GREY, GREY, GREY)), orientation)
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 0, 1] = 1
    (picture,) = drawn(data, maps, (60, 0, 140, 80))
    assert picture.shape == (80, 200, 3)
    np.testing.assert_allclose(picture[10, 130], blended(FOR, STRONGEST), atol=4)


def test_large_images_are_shrunk_with_their_maps() -> None:
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 1, 1] = 1
    (picture,) = drawn(png((4 * LONGEST, 2 * LONGEST)), maps, (0, 0, 4 * LONGEST, 2 * LONGEST))
    assert picture.shape == (LONGEST // 2, LONGEST, 3)
    np.testing.assert_allclose(picture[LONGEST // 2 - 20, LONGEST - 20], blended(FOR, STRONGEST), atol=2)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("L", 255), ("P", 0), ("1", 1), ("I;16", 65535)])
def test_any_mode(mode: str, colour: object) -> None:
    (picture,) = drawn(png((30, 30), mode, colour), np.zeros((1, 7, 7), np.float32), (0, 0, 30, 30))
    assert picture.shape == (30, 30, 3)
    if mode == "RGBA":
        assert (picture == 255).all()  # transparency is laid over white


def test_a_damaged_file_is_its_fault() -> None:
    with pytest.raises(TruncatedImage):
        list(overlays(png((200, 200))[:100], np.zeros((1, 7, 7), np.float32), (0, 0, 1, 1), max_pixels=10**6))
