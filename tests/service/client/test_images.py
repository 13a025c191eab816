from __future__ import annotations

import io
from pathlib import Path

import pytest

from service.client.images import read_image, several


def test_every_kind_of_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"data")
    with path.open("rb") as file:
        kinds = [str(path), path, b"data", bytearray(b"data"), memoryview(b"data"), io.BytesIO(b"data"), file]
        assert [read_image(kind) for kind in kinds] == [b"data"] * len(kinds)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(7, "a path, bytes or an open file, not int"), (io.StringIO("text"), "open it in mode 'rb'")],
)
def test_what_is_no_image(wrong: object, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        read_image(wrong)  # type: ignore[arg-type]


def test_many_images() -> None:
    images = [b"one"]
    assert several(images) is images
    for one in (b"one", "one.jpg", Path("one.jpg"), io.BytesIO(b"one")):
        with pytest.raises(TypeError, match="an iterable of images, not a single one"):
            several(one)  # type: ignore[type-var]
