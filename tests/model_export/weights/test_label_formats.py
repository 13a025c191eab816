"""Label files in every format that is read, and faults in them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.weights.labels import read_labels
from service.runtime.model_card import Label
from tests.model_export.weights.label_files import SHARK, TENCH, names, write


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
        ("l.tsv", "index\twnid\tname\n1\t\tdog\n0\t\tcat\n\n\t\t\n", names("cat", "dog")),
        ("l.tsv", "index\tname\n1\tdog\n0\tcat\n", names("cat", "dog")),
        ("l.csv", 'index,name\n1,"dog, hound"\n0,cat\n', names("cat", "dog, hound")),
        ("l.csv", "wnid,Index,Name\nn01440764,0,tench\nn01484850,1,great white shark\n", (TENCH, SHARK)),
        # Python dicts and lists
        ("l.txt", "{0: 'tench, Tinca tinca',\n 1: \"dog's\"}", names("tench, Tinca tinca", "dog's")),
        ("l.txt", "CLASSES = ['cat', 'dog']\n", names("cat", "dog")),
        ("l.txt", '{"dog": 1, "cat": 0}', names("cat", "dog")),
        ("l.txt", "{1: ('n01484850', 'great white shark'), 0: ('n01440764', 'tench')}", (TENCH, SHARK)),
        ("l.txt", "[background]\n{other}\n", names("[background]", "{other}")),
        # lines numbered from 0 or from 1
        ("l.txt", "2 owl\n0 cat\n1 dog\n", names("cat", "dog", "owl")),
        ("l.txt", "2: owl\n0: cat\n1:dog\n", names("cat", "dog", "owl")),
        ("l.txt", "2,owl\n0,cat\n1, dog\n", names("cat", "dog", "owl")),
        ("l.txt", "2\towl\n0\tcat\n1\t7up\n", names("cat", "7up", "owl")),
        ("l.txt", "02. owl\n00. cat\n01. dog\n", names("cat", "dog", "owl")),
        ("l.txt", "2 - owl\n0 - cat\n1 - dog\n", names("cat", "dog", "owl")),
        ("l.txt", "owl 2\ncat 0\ngreat dane 1\n", names("cat", "great dane", "owl")),
        ("l.txt", "2 002.Owl\n1 001.Cat\n", names("001.Cat", "002.Owl")),
        # numbers that belong to the names
        ("l.txt", "7\n0\n3\n", names("7", "0", "3")),
        ("l.txt", "1 euro\n2 euro\n", names("1 euro", "2 euro")),
        ("l.txt", "50 euro\n5 euro\n1 cent\n2 cent\n", names("50 euro", "5 euro", "1 cent", "2 cent")),
        ("l.txt", "12 angry men\n7 up\ncat\n", names("12 angry men", "7 up", "cat")),
        ("l.txt", "3D printer\n2CV\n", names("3D printer", "2CV")),
        ("l.txt", "1.5 l\n0.5 l\n", names("1.5 l", "0.5 l")),
        ("l.txt", "1,5 l\n0,7 litre\n", names("1,5 l", "0,7 litre")),
        ("l.txt", "class 1\nclass 0\n", names("class 1", "class 0")),
        ("l.txt", "Stage 2\nPhase 1\n", names("Stage 2", "Phase 1")),
        ("l.txt", "Boeing 747\nAirbus 320\n", names("Boeing 747", "Airbus 320")),
        # WordNet ids
        ("l.txt", "n01440764 tench\nn01484850 great white shark\n", (TENCH, SHARK)),
        ("l.txt", "1 n01484850 great white shark\n0 n01440764 tench\n", (TENCH, SHARK)),
        ("l.txt", "n01440764\nn01484850\n", names("n01440764", "n01484850")),
        ("l.txt", "n01440764 tench\ncat\n", names("n01440764 tench", "cat")),
        # JSON of other projects
        ("l.json", '{"id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0, "dog": 1}}', names("cat", "dog")),
        ("l.json", '{"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}}', names("cat", "dog")),
        ("l.json", '{"classes": ["cat", "dog"], "labels": [0, 1, 1]}', names("cat", "dog")),
        ("l.json", '{"labels": ["cat", "dog"]}', names("cat", "dog")),
        ("l.json", '{"names": {"0": "cat", "1": "dog"}}', names("cat", "dog")),
        ("l.json", '{"class_to_idx": {"dog": 1, "cat": 0}}', names("cat", "dog")),
        ("l.json", '{"names": 1, "cat": 0}', names("cat", "names")),
        ("l.json", '[{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]', names("cat", "dog")),
        (
            "l.json",
            '{"images": [], "categories": [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]}',
            names("cat", "dog"),
        ),
    ],
)
def test_reads(tmp_path: Path, name: str, text: str, expected: tuple[Label, ...]) -> None:
    assert read_labels(write(tmp_path, name, text)) == expected


def test_numbering_from_1_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert read_labels(write(tmp_path, "l.txt", "2 dog\n1 cat\n3 owl")) == names("cat", "dog", "owl")
    assert "numbered from 1: number 1 is class 0" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("l.txt", "cat\n\ndog\n", "label of class 1 is empty"),
        ("l.txt", "cat\ndog\ncat\n", "'cat' names classes 0, 2"),
        ("l.txt", "", "it is empty"),
        ("l.json", "[]", "it is empty"),
        ("l.json", "{}", "it is empty"),
        ("l.tsv", "\n", "it is empty"),
        ("l.tsv", "index\tname\n", "it is empty"),
        ("l.json", '["cat", ', "Expecting value"),
        ("l.json", '"cat"', "neither a list of names nor an object"),
        ("l.json", '["cat", 5]', "5 is neither a name nor"),
        ("l.json", '{"0": "cat", "2": "dog"}', "index 1 is missing"),
        ("l.json", '{"0": "cat", "0": "dog"}', "index 0 occurs twice"),
        ("l.json", '{"cat": 0, "dog": 2}', "index 1 is missing"),
        ("l.json", '{"cat": 0, "dog": 0}', "index 0 occurs twice"),
        ("l.json", '{"cat": true}', "an object with the keys cat: write a list of names"),
        ("l.txt", "\ncat\n", "label of class 0 is empty"),
        ("l.json", '{"cat": "0"}', "an object with the keys cat: write a list of names"),
        ("l.json", '{"0": "cat", "dog": "owl"}', "index 'dog' is not a number"),
        ("l.json", '{"a": 1, "b": [], "c": {"0": "cat"}}', "with the keys a, b, c: "),
        ("l.json", '{"0": {"de": "Katze"}}', "an object with the keys de is neither a name nor"),
        ("l.json", '{"id2label": {"0": "cat"}, "label2id": {"dog": 0}}', "id2label and label2id name different"),
        ("l.json", '{"classes": [1, 2]}', "classes: 1 is neither a name nor"),
        ("l.json", '[{"id": 0, "title": "cat"}]', "one has id, title"),
        ("l.json", '[{"id": 0, "name": "cat"}, {"id": 5, "name": "dog"}]', "ids are neither 0 to n-1 nor 1 to n"),
        ("l.json", "[" * 100_000, "nested too deeply"),
        ("l.txt", "[[" * 100_000, "begins like a Python dict or list but is not one"),
        ("l.txt", "{0: 'cat',\n 1: 'dog'", "begins like a Python dict or list but is not one"),
        ("l.txt", "{0: 'cat', 1: print()}", "the Call on line 1 is not a literal"),
        ("l.txt", "{0: 'cat', 0: 'dog'}", "index 0 occurs twice"),
        ("l.txt", "0 cat\n2 dog\n", "every line begins with a number (0, 2), but"),
        ("l.txt", "0 cat\n0 dog\n", "every line begins with a number (0, 0), but"),
        ("l.txt", "c\0a\0t\0\n\0", "holds NUL characters"),
        ("l.tsv", "0\tn01440764\ttench\n", "write a header with the columns index, name and optionally wnid"),
        ("l.csv", "tench", "its header is 'tench': write a header with"),
        ("l.tsv", "index\twnid\tname\n0\ttench\n", "line 2 has 2 columns"),
        ("l.tsv", "index\twnid\tname\n1\t\ttench\n", "index 0 is missing"),
        ("l.yaml", "tench", "pass a .txt, .json, .tsv or .csv file"),
    ],
)
def test_refuses(tmp_path: Path, name: str, text: str, fault: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(InputError) as refusal:
        read_labels(path)
    assert fault in str(refusal.value)
    assert str(path) in str(refusal.value)
