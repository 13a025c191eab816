from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from model_export.datasets.by_name import DRAWING_OPTIONS, is_folder, open_data
from model_export.datasets.cifar10 import BINARY
from model_export.datasets.drawings import Drawings
from model_export.datasets.holding_out import Fold
from model_export.datasets.in_memory import InMemory
from model_export.drawings.pictures import CLASSES, STANDARD, STYLES
from model_export.errors import InputError


def pictures(root: Path) -> Path:
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(root / "ab"[i % 2] / f"{i}.png")
    return root


def refusal(spec: str) -> str:
    with pytest.raises(InputError) as caught:
        open_data(spec)
    return str(caught.value)


def test_a_folder(tmp_path: Path) -> None:
    data = open_data(str(pictures(tmp_path / "pets")), val_share=0.4)
    assert (len(data.train), len(data.val)) == (4, 2)


def test_folder_options_are_passed_on(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    (root / "a" / "broken.png").write_bytes(b"x")
    assert "broken.png" in refusal(str(root))
    splits = {tuple(open_data(str(root), seed=seed, broken="skip").val.title(i) for i in range(2)) for seed in range(8)}
    assert len(splits) > 1


def test_a_folder_called_like_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "drawings")
    assert len(open_data("./drawings").train) == 4
    assert isinstance(open_data("drawings").train, Drawings)


def test_drawings_have_no_folds() -> None:
    with pytest.raises(InputError, match="drawings have a validation part of their own: leave --folds and --fold out"):
        open_data("drawings", fold=Fold(1, 5))


def test_a_missing_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}/drawing does not exist" in refusal(f"{tmp_path}/drawing")


def test_a_folder_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pictures(tmp_path)))
    assert len(open_data("~").train) == 4


def test_a_url(tmp_path: Path) -> None:
    assert refusal("https://example.org/pets.zip").startswith("https://example.org/pets.zip is a URL: download it")


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(f"cifar10:{tmp_path}").startswith(f"{tmp_path} does not hold CIFAR-10")
    cache = tmp_path / "resnet-service" / "cifar10"
    (cache / BINARY.folder).mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert refusal("cifar10").startswith(f"{cache / BINARY.folder} lacks ")
    assert refusal("cifar10:") == "cifar10: lacks its path: give `cifar10`, or `cifar10:PATH`"


def test_drawings_by_default() -> None:
    data = open_data("drawings")
    assert isinstance(data.train, Drawings)
    assert isinstance(data.val, Drawings)
    assert (len(data.train), len(data.val), data.val.first) == (4096, 1024, 4096)
    assert (data.train.seed, data.train.style, data.train.classes) == (0, STANDARD, CLASSES)


def test_drawings_with_options() -> None:
    data = open_data("drawings:train=40,val=20,side=96,difficulty=hard,classes=ring+circle,seed=7")
    assert isinstance(data.train, Drawings)
    assert isinstance(data.val, Drawings)
    assert (len(data.train), len(data.val), data.val.first) == (40, 20, 40)
    assert data.train.seed == data.val.seed == 7
    assert data.train.style == data.val.style == STYLES["hard"].square(96)
    assert data.train.classes == data.val.classes == ("ring", "circle")


def test_small_drawings_are_held_in_memory() -> None:
    data = open_data("drawings:train=24,val=12,side=32")
    assert isinstance(data.train, InMemory)
    assert isinstance(data.val, InMemory)
    assert data.val.images.shape == (12, 32, 32, 3)
    drawings = Drawings(seed=0, count=12, first=24, style=STANDARD.square(32))
    assert data.val.image(3).tobytes() == drawings.image(3).tobytes()
    assert isinstance(open_data("drawings:train=1,val=1,side=64").train, InMemory)
    assert isinstance(open_data("drawings:train=1,val=1,side=65").train, Drawings)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("size=32", "no option 'size'"),
        ("side=31", "cannot have side=31"),
        ("side=1001", "cannot have side=1001"),
        ("side=big", "cannot have side=big"),
        ("train=0", "cannot have train=0"),
        ("val=-1", "cannot have val=-1"),
        ("seed=1.5", "cannot have seed=1.5"),
        ("seed=²", "cannot have seed=²"),
        ("difficulty=nasty", "no difficulty 'nasty'"),
        ("", "expected key=value, got ''"),
        ("train", "expected key=value, got 'train'"),
        ("train=", "expected key=value, got 'train'"),
        ("train=5,", "expected key=value, got ''"),
    ],
)
def test_invalid_drawing_options(options: str, fault: str) -> None:
    message = refusal(f"drawings:{options}")
    assert re.search(re.escape(fault), message)
    for key in DRAWING_OPTIONS:
        assert f"{key}= (" in message
    for value in ("easy, standard, hard", "32 to 1000", "circle+triangle"):
        assert value in message


def test_invalid_classes_and_repeated_options() -> None:
    assert "no drawings of cube: choose from circle" in refusal("drawings:classes=circle+cube")
    assert "name at least two classes" in refusal("drawings:classes=circle")
    assert refusal("drawings:val=1,val=2") == "drawings:val=1,val=2 gives an option twice: leave one out"


def test_names_of_data_sets_are_not_folders() -> None:
    assert not is_folder("drawings")
    assert not is_folder("cifar10:there/archive.tar.gz")
    assert is_folder("./drawings")
    assert is_folder("pictures")
