"""Files are whole or absent."""

from pathlib import Path

import pytest

from model_export.disk import write_whole, written_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"one")
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_bytes(b"two")
        assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"one")

    def fail() -> None:
        with written_whole(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
