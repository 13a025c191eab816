"""Models in a folder of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from service.fetch.source import FetchError

CHUNK = 2**20


class FolderSource:
    """A `Source`: a model folder that can be read like any other, such as a mounted share."""

    revision: str | None = None

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root

    def sizes(self) -> Mapping[str, int]:
        if not self._root.is_dir():
            raise FetchError(f"there is no folder {self.name}: give a model folder, s3://BUCKET/PREFIX or oci://IMAGE")
        try:
            return {
                path.relative_to(self._root).as_posix(): path.stat().st_size
                for path in self._root.rglob("*")
                if path.is_file()
            }
        except OSError as error:
            raise _unreadable(error) from None

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        try:
            with (self._root / path).open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise _unreadable(error) from None


def _unreadable(error: OSError) -> FetchError:
    return FetchError(f"{error.filename} cannot be read ({error.strerror}): check its owner and permissions")
