"""From arguments to images."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from service.bulk.inputs import InputError, Inputs
from service.bulk.stream import Unreadable

JPEG = b"\xff\xd8\xff\xe0 an image"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with some images in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a/2.PNG", "a/1.webp", "a/deep/er/x.jpeg", "a/notes.txt", ".hidden.jpg", "a/.git/y.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def inputs(*arguments: str, stdin: bytes = b"", max_bytes: int = 100) -> Inputs:
    return Inputs(arguments, lambda: io.BufferedReader(io.BytesIO(stdin)), max_bytes)  # type: ignore[type-var]


def names(*arguments: str, stdin: bytes = b"") -> list[str]:
    return [source.name for source in inputs(*arguments, stdin=stdin).sources()]


def test_folders_are_walked_in_order_without_what_is_hidden() -> None:
    found = inputs(".")
    assert [source.name for source in found.sources()] == ["./a/1.webp", "./a/2.PNG", "./a/deep/er/x.jpeg", "./b.jpg"]
    assert found.skipped == 1
    assert found.count() == 4


def test_files_are_read_as_they_are_whatever_their_names() -> None:
    (source,) = inputs("a/notes.txt").sources()
    assert (source.name, source.read()) == ("a/notes.txt", b"a/notes.txt")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("a/*", ["a/1.webp", "a/2.PNG", "a/notes.txt"]),
        ("a/[12].*", ["a/1.webp", "a/2.PNG"]),
        ("a/?.webp", ["a/1.webp"]),
        ("**/*.jpeg", ["a/deep/er/x.jpeg"]),
        ("a/**", ["a/1.webp", "a/2.PNG", "a/notes.txt", "a/deep/er/x.jpeg"]),
        ("**/x.jpeg", ["a/deep/er/x.jpeg"]),
        ("*/deep/er/*", ["a/deep/er/x.jpeg"]),
        ("a/.git/*", ["a/.git/y.jpg"]),
        (".*.jpg", [".hidden.jpg"]),
    ],
)
def test_patterns_are_those_of_a_shell(pattern: str, expected: list[str], folder: Path) -> None:
    assert names(pattern) == expected
    assert names(f"{folder}/{pattern}") == [f"{folder}/{name}" for name in expected]


def test_a_file_whose_name_is_a_pattern_is_a_file(folder: Path) -> None:
    (folder / "x[1].jpg").write_bytes(b"")
    (folder / "x1.jpg").write_bytes(b"")
    assert names("x[1].jpg") == ["x[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "slug", "detail"),
    [
        ("none.jpg", "file-not-found", "There is no file none.jpg."),
        ("none/*.jpg", "no-image-found", "No file matches none/*.jpg."),
        ("a/deep/empty", "no-image-found", "The folder a/deep/empty holds no file that ends in .jpg"),
    ],
)
def test_what_stands_for_no_image_has_a_source_that_says_why(argument: str, slug: str, detail: str) -> None:
    Path("a/deep/empty").mkdir()
    (source,) = inputs(argument).sources()
    assert source.name == argument
    with pytest.raises(Unreadable) as raised:
        source.read()
    assert raised.value.problem.slug == slug
    assert raised.value.problem.detail.startswith(detail)
    assert raised.value.problem.remedy


def test_a_file_that_is_too_large_is_not_read() -> None:
    (source,) = inputs("b.jpg", max_bytes=4).sources()
    with pytest.raises(Unreadable, match="The image has 5 bytes; at most 4 are accepted"):
        source.read()


def test_a_folder_in_the_place_of_a_file_cannot_be_read() -> None:
    (source,) = inputs("b.jpg").sources()
    Path("b.jpg").unlink()
    Path("b.jpg").mkdir()
    with pytest.raises(Unreadable) as raised:
        source.read()
    assert raised.value.problem.slug == "file-not-readable"


def test_a_list_of_paths() -> None:
    assert names("-", stdin=b"b.jpg\na\r\n\nnone.jpg") == [
        *("b.jpg", "a/1.webp", "a/2.PNG", "a/deep/er/x.jpeg", "none.jpg"),
    ]
    assert names("-", stdin=b"") == []
    assert names("-", stdin=b"*.jpg\n") == ["*.jpg"]  # names in lists are no patterns


def test_an_image_in_the_place_of_a_list() -> None:
    (source,) = inputs("-", stdin=JPEG).sources()
    assert (source.name, source.read()) == ("-", JPEG)


def test_names_that_are_not_utf8_have_one_form(folder: Path) -> None:
    path = os.fsencode(folder) + b"/a/deep/caf\xe9.jpg"
    Path(os.fsdecode(path)).write_bytes(b"coffee")
    source = next(iter(inputs("a/deep").sources()))
    assert (source.name, source.read()) == ("a/deep/caf\\xe9.jpg", b"coffee")


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "3.jpg").symlink_to(folder / "b.jpg")
    assert names("a") == ["a/1.webp", "a/2.PNG", "a/3.jpg", "a/deep/er/x.jpeg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "empty path: give files"),
        (("-", "-"), "- is given twice"),
        (("**/a/**/b.jpg",), r"\*\* may stand once in a pattern"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inputs(*arguments)


def test_only_what_is_not_piped_is_countable() -> None:
    assert inputs("a").countable
    assert not inputs("a", "-").countable
