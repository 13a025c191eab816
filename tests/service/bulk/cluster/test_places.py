"""Places: from arguments to blocks that a task reads, and from a block to bytes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from service.bulk.cluster import places  # noqa: E402
from service.bulk.done import Done  # noqa: E402
from service.bulk.inputs import InputError, Inputs  # noqa: E402
from service.bulk.stream import Unreadable  # noqa: E402
from tests.support.buckets import KEY, SECRET, s3_server  # noqa: E402

MOST = 1000  # bytes of an image


def blocks(*arguments: object, column: str | None = None, done: tuple[str, ...] = ()) -> list[Any]:
    paths = [argument for argument in map(str, arguments) if not argument.startswith(places.S3)]
    urls = [argument for argument in map(str, arguments) if argument.startswith(places.S3)]
    inputs = Inputs(paths, lambda: io.BufferedReader(io.BytesIO()), MOST)
    return list(places.blocks(inputs, urls, column, Done(done)))


def read(found: list[Any], column: str | None = None) -> Iterator[tuple[str, object]]:
    """Names, with the bytes or the problem."""
    for block in found:
        for source in places.sources(block, column, MOST):
            try:
                yield source.name, source.read()
            except Unreadable as error:
                yield source.name, error.problem.slug


def parquet(path: Path, rows: dict[str, list[Any]], group: int = 2) -> Path:
    pq.write_table(pa.table(rows), path, row_group_size=group)
    return path


def test_files_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "IN_A_BLOCK", 2)
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    found = blocks(tmp_path, done=(f"{tmp_path}/3.jpg",))
    assert [block.num_rows for block in found] == [2, 2]
    assert dict(read(found)) == {f"{tmp_path}/{number}.jpg": b"%d" % number for number in (0, 1, 2, 4)}


def test_paths_are_absolute_and_names_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have other working folders than the command."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    parquet(tmp_path / "paths.parquet", {"file": ["b.jpg"]})
    parquet(tmp_path / "images.parquet", {"file": [b"c"]})
    monkeypatch.chdir(tmp_path)
    found = blocks("photos", "nothing.jpg", "paths.parquet", "images.parquet", column="file")
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "worker")
    assert dict(read(found, "file")) == {
        "photos/a.jpg": b"a",
        "nothing.jpg": "file-not-found",
        "b.jpg": b"b",
        "images.parquet#0": b"c",
    }


def test_names_that_are_not_text(tmp_path: Path) -> None:
    name = b"\xff.jpg"
    (tmp_path / name.decode(errors="surrogateescape")).write_bytes(b"image")
    assert list(read(blocks(tmp_path))) == [(f"{tmp_path}/\\xff.jpg", b"image")]


def test_what_is_no_image_has_a_row(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(MOST + 1))
    found = dict(read(blocks(tmp_path / "nothing.jpg", f"{tmp_path}/*.gif", tmp_path / "large.jpg")))
    assert list(found.values()) == ["file-not-found", "no-image-found", "image-too-large"]


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"id": [1, 2, 3, 4], "image": [b"a", b"b", None, bytes(MOST + 1)]})
    found = blocks(path, done=(f"{path}#1",))
    assert [block.num_rows for block in found] == [1, 2]  # a block for each row group
    assert dict(read(found)) == {f"{path}#0": b"a", f"{path}#2": "empty-image", f"{path}#3": "image-too-large"}


def test_names_of_parquet_files_end_in_any_case(tmp_path: Path) -> None:
    """As those of images."""
    path = parquet(tmp_path / "A.PARQUET", {"image": [b"a"]})
    assert dict(read(blocks(path))) == {f"{path}#0": b"a"}


def test_many_rows_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "IN_A_BLOCK", 3)
    path = parquet(tmp_path / "a.parquet", {"image": [b"%d" % number for number in range(20)]}, group=10)
    assert dict(read(blocks(path))) == {f"{path}#{number}": b"%d" % number for number in range(20)}


def test_images_in_structures(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [{"bytes": b"a", "path": "x"}, None], "label": [1, 2]})
    assert dict(read(blocks(path))) == {f"{path}#0": b"a", f"{path}#1": "empty-image"}


def test_paths_in_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"image")
    path = parquet(tmp_path / "a.parquet", {"file": [f"{tmp_path}/1.jpg", None, "/nothing.jpg"]})
    found = dict(read(blocks(path, column="file"), "file"))
    assert found == {f"{tmp_path}/1.jpg": b"image", f"{path}#1": "empty-image", "/nothing.jpg": "file-not-found"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, "has 2 columns of bytes: name the column with the images by --column: a, b, id"),
        ("c", "has no column c of bytes or text"),
        ("id", "has no column id of bytes or text"),
    ],
)
def test_columns_that_are_not_clear(column: str | None, message: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"a": [b"1"], "b": [b"2"], "id": [1]})
    with pytest.raises(InputError, match=message):
        blocks(path, column=column)


def test_a_broken_parquet_file_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    (block,) = blocks(tmp_path / "a.parquet")
    (row,) = block.to_pylist()
    assert row["name"] == f"{tmp_path}/a.parquet"
    assert json.loads(row["problem"])["error"]["type"] == "/problems/file-not-readable"


def damage(path: Path, group: int) -> None:
    """Overwrites the first page of a row group."""
    start = pq.read_metadata(path).row_group(group).column(0).dictionary_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 20)


def test_a_damaged_row_group_is_a_problem_for_each_of_its_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [b"%d" % number for number in range(6)]})
    damage(path, 1)
    expected = {f"{path}#{row}": b"%d" % row for row in range(6)}
    assert dict(read(blocks(path))) == {**expected, **dict.fromkeys([f"{path}#2", f"{path}#3"], "file-not-readable")}


def test_a_damaged_row_group_of_paths_is_a_problem_for_each_of_its_rows(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    path = parquet(tmp_path / "a.parquet", {"file": [f"{tmp_path}/{number}.jpg" for number in range(6)]})
    damage(path, 1)
    found = blocks(path, column="file")
    expected = [
        f"{tmp_path}/0.jpg",
        f"{tmp_path}/1.jpg",
        f"{path}#2",
        f"{path}#3",
        f"{tmp_path}/4.jpg",
        f"{tmp_path}/5.jpg",
    ]
    assert [name for name, _ in read(found)] == expected
    assert [value for _, value in read(found)] == [b"0", b"1", "file-not-readable", "file-not-readable", b"4", b"5"]


@pytest.mark.parametrize("left", [2, 3, None])
def test_a_file_that_changes_while_it_is_read_gives_a_row_for_each_place(left: int | None, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [b"%d" % number for number in range(4)]})
    found = blocks(path)
    path.unlink()
    if left:
        parquet(path, {"image": [b"%d" % number for number in range(left)]})
    slugs = ["file-not-readable"] * 4 if left else ["file-not-found"] * 4
    assert dict(read(found)) == {f"{path}#{row}": b"%d" % row if row < (left or 0) else slugs[row] for row in range(4)}


def test_an_image_on_standard_input_is_no_list() -> None:
    jpeg = io.BufferedReader(io.BytesIO(b"\xff\xd8\xff and so on"))
    with pytest.raises(InputError, match="give the image as a file"):
        list(places.blocks(Inputs(["-"], lambda: jpeg, MOST), [], None, Done(())))


# ---- S3 ----


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder whose folders are buckets, of a server that the variables name."""
    folder = tmp_path_factory.mktemp("s3") / "buckets"
    folder.mkdir()
    with s3_server(folder) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        places._bucket.cache_clear()
        yield folder
        places._bucket.cache_clear()


@pytest.fixture
def bucket(buckets: Path) -> Iterator[Path]:
    folder = buckets / "archive"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_objects_below_a_prefix(bucket: Path) -> None:
    for name in ("2024/a.jpg", "2024/deep/b ö.PNG", "2024/notes.txt", "2025/c.jpg"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_bytes(name.encode())
    expected = {f"s3://archive/{name}": name.encode() for name in ("2024/a.jpg", "2024/deep/b ö.PNG")}
    assert dict(read(blocks("s3://archive/2024"))) == dict(read(blocks("s3://archive/2024/"))) == expected
    assert [name for name, _ in read(blocks("s3://archive", done=("s3://archive/2025/c.jpg",)))] == [*expected]


def test_one_object(bucket: Path) -> None:
    (bucket / "a.jpg").write_bytes(b"a")
    assert list(read(blocks("s3://archive/a.jpg"))) == [("s3://archive/a.jpg", b"a")]


def test_what_is_no_image_in_a_bucket_has_a_row(bucket: Path) -> None:
    (bucket / "large.jpg").write_bytes(bytes(MOST + 1))
    (bucket / "gone.jpg").write_bytes(b"a")
    found = blocks("s3://archive/large.jpg", "s3://archive/gone.jpg", "s3://archive/none/", "s3://nowhere/2024")
    (bucket / "gone.jpg").unlink()  # listed, but not there any more
    assert dict(read(found)) == {
        "s3://archive/large.jpg": "image-too-large",
        "s3://archive/gone.jpg": "file-not-found",
        "s3://archive/none/": "no-image-found",
        "s3://nowhere/2024": "no-image-found",
    }


def test_parquet_files_in_a_bucket(bucket: Path, tmp_path: Path) -> None:
    parquet(bucket / "images.parquet", {"image": [b"a", b"b", b"c"]})
    (bucket / "a.jpg").write_bytes(b"object")
    (tmp_path / "b.jpg").write_bytes(b"file")
    paths = parquet(tmp_path / "paths.parquet", {"path": ["s3://archive/a.jpg", str(tmp_path / "b.jpg")]})
    found = dict(read(blocks("s3://archive/images.parquet")))
    assert found == {f"s3://archive/images.parquet#{row}": value for row, value in enumerate([b"a", b"b", b"c"])}
    by_path = dict(read(blocks(paths, column="path"), "path"))
    assert by_path == {"s3://archive/a.jpg": b"object", str(tmp_path / "b.jpg"): b"file"}


def test_a_bucket_that_lets_nobody_in(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    places._bucket.cache_clear()
    try:
        ((name, slug),) = read(blocks("s3://archive/2024"))
    finally:
        places._bucket.cache_clear()
    assert (name, slug) == ("s3://archive/2024", "file-not-readable")
