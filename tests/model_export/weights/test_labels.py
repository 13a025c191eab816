from pathlib import Path

import numpy as np
import pytest

from model_export.errors import InputError
from model_export.weights.labels import imagenet_labels, labels_in, read_labels
from service.runtime.model_card import Label
from tests.model_export.weights.label_files import SHARK, TENCH, names, write


def test_the_usual_lists_of_imagenet_classes(tmp_path: Path) -> None:
    """All call two classes "crane", which their WordNet ids tell apart."""
    known = tuple(Label(name=label.name.replace("crane bird", "crane"), wnid=label.wnid) for label in imagenet_labels())
    assert known[134].name == known[517].name == "crane"

    gist = ",\n ".join(f"{index}: {label.name + ', and so on'!r}" for index, label in enumerate(known))
    labels = read_labels(write(tmp_path, "imagenet1000_clsidx_to_labels.txt", f"{{{gist}}}"))
    assert labels[0] == Label(name="tench, and so on", wnid="n01440764")
    assert [label.wnid for label in labels] == [label.wnid for label in known]

    numbered = "\n".join(f"{index}: {label.name}" for index, label in enumerate(known))
    assert read_labels(write(tmp_path, "numbered.txt", numbered)) == known

    synsets = "\n".join(f"{label.wnid} {label.name}" for label in known)
    assert read_labels(write(tmp_path, "synset_words.txt", synsets)) == known


def test_utf16_with_its_mark(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("Käfer\nEule\n".encode("utf-16"))
    assert read_labels(tmp_path / "l.txt") == names("Käfer", "Eule")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (["cat", "dog"], names("cat", "dog")),
        (("cat", "dog"), names("cat", "dog")),
        ({1: "dog", 0: "cat"}, names("cat", "dog")),
        ({"dog": np.int64(1), "cat": 0}, names("cat", "dog")),
        ([3, 1], None),
        (3, None),
        ("cat", None),
        ([], None),
        (["cat", "cat"], None),
        (None, None),
    ],
)
def test_labels_of_objects(content: object, expected: tuple[Label, ...] | None) -> None:
    assert labels_in(content) == expected


def test_one_name_may_stand_for_two_wordnet_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "l.json", '[["n02012849", "crane"], ["n03126707", "crane"]]')
    assert [label.wnid for label in read_labels(path)] == ["n02012849", "n03126707"]


def test_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match=r"folder\.txt cannot be read: Is a directory"):
        read_labels(tmp_path / "folder.txt")
    (tmp_path / "latin.txt").write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8"):
        read_labels(tmp_path / "latin.txt")


def test_imagenet_labels() -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    assert labels[0] == TENCH
    assert labels[2] == SHARK
    assert labels[999].wnid == "n15075141"
    assert [label.wnid for label in labels] == sorted(label.wnid or "" for label in labels)
