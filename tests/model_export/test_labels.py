import json
from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.labels import imagenet_labels, read_labels
from service.card import Label

TENCH = Label(name="tench", wnid="n01440764")
SHARK = Label(name="great white shark", wnid="n01484850")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "cat\ndog\n", (Label(name="cat"), Label(name="dog"))),
        ("l.txt", "\ufeffcat\r\ngreat dane\r\n", (Label(name="cat"), Label(name="great dane"))),
        ("l.txt", "cat\ndog\n\n \n", (Label(name="cat"), Label(name="dog"))),
        ("l.json", '{"dog": 1, "cat": 0}', (Label(name="cat"), Label(name="dog"))),  # class_to_idx of ImageFolder
        ("l.json", '["cat", "dog"]', (Label(name="cat"), Label(name="dog"))),
        ("l.json", '{"1": "dog", "0": "cat"}', (Label(name="cat"), Label(name="dog"))),
        ("l.json", json.dumps({"0": ["n01440764", "tench"], "1": ["n01484850", "great white shark"]}), (TENCH, SHARK)),
        ("l.tsv", "index\twnid\tname\n0\tn01440764\ttench\n1\tn01484850\tgreat white shark\n", (TENCH, SHARK)),
        ("l.tsv", "index\twnid\tname\n1\t\tdog\n0\t\tcat\n", (Label(name="cat"), Label(name="dog"))),
        ("l.tsv", 'index\twnid\tname\n0\t\t5" gun\n', (Label(name='5" gun'),)),
    ],
)
def test_reads(tmp_path: Path, name: str, text: str, expected: tuple[Label, ...]) -> None:
    assert read_labels(write(tmp_path, name, text)) == expected


def test_one_name_may_stand_for_two_wordnet_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "l.json", '[["n02012849", "crane"], ["n03126707", "crane"]]')
    assert [label.wnid for label in read_labels(path)] == ["n02012849", "n03126707"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("l.txt", "cat\n\ndog\n", "label of class 1 is empty"),
        ("l.txt", "cat\ndog\ncat\n", "'cat' names classes 0, 2"),
        ("l.txt", "", "it is empty"),
        ("l.json", "[]", "it is empty"),
        ("l.json", '["cat", ', "Expecting value"),
        ("l.json", '"cat"', "neither a list of names nor an object"),
        ("l.json", '["cat", 5]', "5 is neither a name nor"),
        ("l.json", '{"0": "cat", "2": "dog"}', "index 1 is missing"),
        ("l.json", '{"0": "cat", "0": "dog"}', "index 0 occurs twice"),
        ("l.json", '{"cat": 0, "dog": 2}', "index 1 is missing"),
        ("l.json", '{"cat": 0, "dog": 0}', "index 0 occurs twice"),
        ("l.json", '{"cat": true}', "is neither a name nor"),
        ("l.txt", "\ncat\n", "label of class 0 is empty"),
        ("l.json", '{"cat": "0"}', "index 'cat' is not a number"),
        ("l.tsv", "0\tn01440764\ttench\n", "not the three columns index, wnid, name"),
        ("l.tsv", "index\twnid\tname\n0\ttench\n", "line 2 has 2 columns"),
        ("l.tsv", "index\twnid\tname\n1\t\ttench\n", "index 0 is missing"),
        ("l.csv", "tench", "give a .txt, .json or .tsv file"),
    ],
)
def test_refuses(tmp_path: Path, name: str, text: str, fault: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(InputError) as refusal:
        read_labels(path)
    assert fault in str(refusal.value)
    assert str(path) in str(refusal.value)


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
