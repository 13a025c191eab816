"""Digests of data sets: equal only for the same images and classes."""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.datasets.base import Dataset
from model_export.datasets.by_name import open_data
from model_export.datasets.digests import listing_digest
from model_export.datasets.drawings import Drawings
from model_export.datasets.image_folder import open_folder, open_images
from model_export.datasets.in_memory import InMemory
from model_export.datasets.subset import Subset
from tests.model_export.datasets.trees import encoded, write

PICTURES = {
    "cat/a.png": encoded("PNG"),
    "cat/deep/b.jpg": encoded(colour="blue"),
    "dog/a.jpg": encoded(colour="green"),
    "dog/b.jpg": encoded(),
}


def test_of_a_folder_as_sha256sum_lists_it(tmp_path: Path) -> None:
    lines = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(PICTURES.items())]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert open_images(write(tmp_path / "pets", PICTURES)).digest() == expected


def test_of_a_folder_moved_changed_and_renamed(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", PICTURES)
    before = open_images(root).digest()
    os.utime(root / "cat" / "a.png", (0, 0))
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "animals")
    assert open_images(moved).digest() == before
    (moved / "cat" / "a.png").write_bytes(encoded("PNG", colour="blue"))
    changed = open_images(moved).digest()
    (root / "dog" / "b.jpg").rename(root / "cat" / "b.jpg")  # another class
    assert len({before, changed, open_images(root).digest()}) == 3


def test_of_the_two_parts_of_a_tree(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", PICTURES)
    data, again = (open_folder(root, val_share=0.5) for _ in range(2))
    paths = [data.val.title(index) for index in range(len(data.val))]
    listed = [
        (str(Path(path).relative_to(root)), hashlib.sha256(Path(path).read_bytes()).hexdigest()) for path in paths
    ]
    assert data.val.digest() == listing_digest(listed)
    assert [part.digest() for part in data.parts] == [part.digest() for part in again.parts]
    assert data.train.digest() != data.val.digest()


def test_names_count_in_their_composed_form() -> None:
    own = "0" * 64
    composed, decomposed = (unicodedata.normalize(form, "Bär/a.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert listing_digest([(composed, own)]) == listing_digest([(decomposed, own)])
    assert listing_digest([("\udcff/a.png", own)]) != listing_digest([("\udcfe/a.png", own)])  # not UTF-8


def test_the_order_in_which_images_are_listed_does_not_matter() -> None:
    images = [("cat/b.png", "0" * 64), ("cat/a.png", "1" * 64)]
    assert listing_digest(images) == listing_digest(images[::-1])


def test_of_images_in_memory() -> None:
    pixels = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    labels = np.array([0, 1])
    digest = InMemory("one", ("a", "b"), pixels, labels).digest()
    assert digest == InMemory("another name", ("a", "b"), pixels.clone(), labels).digest()
    brighter = pixels.clone()
    brighter[1, 3, 3, 2] = 1
    others = [
        InMemory("one", ("a", "b"), brighter, labels),
        InMemory("one", ("a", "b"), pixels, labels[::-1].copy()),
        InMemory("one", ("a", "c"), pixels, labels),
        InMemory("one", ("a", "b"), pixels.reshape(2, 2, 8, 3), labels),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 5


def test_of_drawings() -> None:
    def digest(**changes: int) -> str:
        return Drawings(**{"seed": 0, "count": 5, "first": 0, **changes}).digest()

    assert digest() == digest()
    assert len({digest(), digest(seed=1), digest(count=6), digest(first=1)}) == 4
    easy, hard = (open_data(f"drawings:train=4,val=4,side=96,difficulty={name}") for name in ("easy", "hard"))
    assert easy.train.digest() != hard.train.digest()


def test_of_any_other_data_set_by_its_files() -> None:
    class Files(Dataset):
        name, classes, labels = "two files", ("a", "b"), np.array([1, 0])

        def read(self, index: int) -> bytes:
            return bytes([index])

        def title(self, index: int) -> str:
            return f"{index}.jpg"

    own = [hashlib.sha256(bytes([index])).hexdigest() for index in range(2)]
    assert Files().digest() == listing_digest([("b/0.jpg", own[0]), ("a/1.jpg", own[1])])


@pytest.mark.parametrize("spec", ["drawings:train=8,val=2,side=32", "drawings:train=8,val=2,side=96"])
def test_of_a_part_of_anything(spec: str) -> None:
    """The same images have the same digest, other images another."""
    whole = open_data(spec).train
    parts = [Subset(whole, np.array(indices)) for indices in ([0, 3, 5], [0, 3, 5], [0, 3, 6])]
    digests = [part.digest() for part in parts]
    assert digests[0] == digests[1]
    assert len({whole.digest(), *digests}) == 3
    assert Subset(parts[0], np.array([0, 2])).digest() == Subset(whole, np.array([0, 5])).digest()
