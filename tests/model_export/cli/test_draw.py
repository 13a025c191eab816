from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest
from PIL import Image

from model_export.cli import draw
from model_export.datasets.drawings import Drawings
from model_export.datasets.image_folder import open_folder, open_images
from model_export.drawings.pictures import CLASSES, STYLES
from model_export.errors import InputError


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    draw.add_options(parser)
    return draw.run(parser.parse_args([*map(str, arguments)]))


def test_a_folder_to_train_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "new" / "shapes"
    with caplog.at_level(logging.INFO):
        assert run(out, "--train", 36, "--val", 12, "--side", 32) == 0
    assert f"{out}: 36 training and 12 validation pictures" in caplog.text
    data = open_folder(out)
    assert data.train.classes == tuple(sorted(CLASSES))
    assert (len(data.train), len(data.val)) == (36, 12)
    assert list(out.parent.iterdir()) == [out]
    assert out.stat().st_mode & 0o777 == 0o755


def test_the_files_are_the_drawings(tmp_path: Path) -> None:
    chosen = ("ring", "circle")
    run(tmp_path, "--train", 4, "--val", 2, "--classes", *chosen, "--difficulty", "hard", "--side", 40, "--seed", 3)
    style = STYLES["hard"].square(40)
    drawn = Drawings(seed=3, count=6, classes=chosen, style=style)
    names = ["train/ring/0000", "train/circle/0001", "train/ring/0002", "train/circle/0003"]
    names += ["val/ring/0000", "val/circle/0001"]
    for i, name in enumerate(names):
        assert (tmp_path / f"{name}.jpg").read_bytes() == drawn.read(i)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 6


def test_sizes_of_photographs_by_default(tmp_path: Path) -> None:
    run(tmp_path, "--train", 2, "--val", 2, "--classes", "circle", "ring")
    with Image.open(tmp_path / "val" / "ring" / "0001.jpg") as image:
        assert min(image.size) >= 240
    assert open_images(tmp_path / "val").classes == ("circle", "ring")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError) as refusal:
            run(out)
        assert str(refusal.value).startswith(f"{out} is not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--val", 11], "11 validation pictures are too few for 12 classes"),
        (["--train", 0], "0 training and"),
        (["--side", 31], "pictures cannot have a side of 31 pixels: give 32 to 1000"),
        (["--classes", "ring"], "name at least two classes"),
    ],
)
def test_impossible_options(tmp_path: Path, arguments: list[object], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        run(tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--classes", "circle", "cube")
    assert "invalid choice: 'cube'" in capsys.readouterr().err


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Drawings, index: int) -> bytes:
        if index == 5:
            raise KeyboardInterrupt
        return b"x"

    monkeypatch.setattr(Drawings, "read", read)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
