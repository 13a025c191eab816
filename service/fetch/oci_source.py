"""Models in an OCI registry: an artifact with a layer for each file, or an image whose layers hold a model folder."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from service.fetch.folder_source import FolderSource
from service.fetch.registry import Described, Manifest, Registry
from service.fetch.source import FetchError
from service.fetch.transfer import download, retried
from service.runtime.model_card import NAME_PATTERN
from service.runtime.model_folder import CARD_FILE, VERSION_PATTERN, sha256

TITLE = "org.opencontainers.image.title"  # the path of a file that is a layer by itself
UNPACK = "io.deis.oras.content.unpack"  # ORAS: the layer is a folder, as a tar archive
ATTESTATION = "vnd.docker.reference.type"
WHITEOUT = ".wh."  # before the name of a file that a layer removes
OPAQUE = ".wh..wh..opq"  # in a folder: a layer removes what was in it

# What tarfile raises; KeyError for a link to nothing, ValueError for a name that no file can have.
BROKEN_ARCHIVE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError, ValueError)

# The model folder inside an archive or an artifact, and a path from there on.
CARD = re.compile(rf"(?P<root>(?:.*/)?){NAME_PATTERN.strip('^$')}/{VERSION_PATTERN.pattern}/{re.escape(CARD_FILE)}")


class Layer(NamedTuple):
    digest: str
    size: int
    title: str | None  # None: an archive

    @classmethod
    def of(cls, described: Described) -> Layer:
        notes = described.annotations or {}
        return cls(described.digest, described.size, None if notes.get(UNPACK) == "true" else notes.get(TITLE))


class OciSource:
    """A `Source`. Layers that are archives are downloaded and unpacked before anything can be listed."""

    def __init__(self, url: str, registry: Registry, work: Path) -> None:
        """
        Args:
            work: a folder for archives and what is unpacked. What an earlier run has left there is not downloaded
                again.

        Raises:
            FetchError, Interrupted: there is no such image, or it cannot be read.
        """
        self.name = url
        self._work = work
        self._registry = registry
        manifest, digest = retried(self._manifest, url)
        self._layers = [Layer.of(described) for described in manifest.layers]
        if not self._layers:
            raise FetchError(f"{url} has no layers, so no models: push a model folder")
        self._archives = [layer for layer in self._layers if layer.title is None]
        self.revision = digest if self._archives else None
        self._tree = work / f"tree-{_file_name(digest)}"

    def sizes(self) -> Mapping[str, int]:
        files = {str(layer.title): layer.size for layer in self._layers if layer.title is not None}
        if self._archives:
            if not self._tree.exists():
                self._unpack_all()
            files |= self._unpacked.sizes()
        self._root = _root(files, self.name)
        return {path.removeprefix(self._root): size for path, size in files.items() if path.startswith(self._root)}

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        for layer in self._layers:
            if layer.title == self._root + path:
                content = self._registry.blob(layer.digest, offset)
                return content if offset else self._compared(layer, content)
        return self._unpacked.read(self._root + path, offset)

    def _compared(self, layer: Layer, content: Iterator[bytes]) -> Iterator[bytes]:
        """The content of a layer, in passing. Raises FetchError at its end if it is not what its digest says."""
        digest, size = hashlib.sha256(), 0
        for chunk in content:
            digest.update(chunk)
            size += len(chunk)
            if size > layer.size:
                break
            yield chunk
        if f"sha256:{digest.hexdigest()}" != layer.digest:
            raise self._other_content(str(layer.title))

    def _other_content(self, what: str) -> FetchError:
        return FetchError(f"{self.name}: {what} is not what its digest says: try again, or push the models again")

    def _manifest(self) -> tuple[Manifest, str]:
        """The manifest of the image; of an index, the first one: models are the same on every platform."""
        manifest, digest = self._registry.manifest(self._registry.reference.version)
        if not manifest.manifests:
            return manifest, digest
        for described in manifest.manifests:
            if ATTESTATION not in (described.annotations or {}):
                return self._registry.manifest(described.digest)
        raise FetchError(f"{self.name} is an index without an image: push a model folder")

    @property
    def _unpacked(self) -> FolderSource:
        return FolderSource(self._tree, self.name)

    def _unpack_all(self) -> None:
        """Downloads the archives and unpacks them, each over those before.

        They stay until all are unpacked: an interrupted run leaves them to the next one.
        """
        archives = [self._downloaded(layer) for layer in self._archives]
        growing = self._work / "unpacking"
        shutil.rmtree(growing, ignore_errors=True)
        growing.mkdir()
        for layer, path in zip(self._archives, archives, strict=True):
            self._unpack(layer, path, growing)
        growing.rename(self._tree)
        for path in set(archives):  # an image may have a layer twice
            path.unlink()

    def _downloaded(self, layer: Layer) -> Path:
        """An archive that is what its digest says."""
        path = self._work / _file_name(layer.digest)
        download(lambda offset: self._registry.blob(layer.digest, offset), path, layer.size, _what(layer))
        if f"sha256:{sha256(path)}" != layer.digest:
            raise self._other_content(_what(layer))
        return path

    def _unpack(self, layer: Layer, path: Path, tree: Path) -> None:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    _apply(archive, member, tree)
        except BROKEN_ARCHIVE as error:
            raise FetchError(
                f"{self.name}: {_what(layer)} is no tar archive that can be read here ({error}): push it plain or with "
                "gzip"
            ) from None


def _file_name(digest: str) -> str:
    return digest.replace(":", "-")


def _what(layer: Layer) -> str:
    return f"layer {layer.digest[:19]}"


def _apply(archive: tarfile.TarFile, member: tarfile.TarInfo, tree: Path) -> None:
    """Unpacks one file, or removes what it says has gone. Nothing else is needed of a model folder."""
    inner = PurePosixPath(member.name)
    if inner.is_absolute() or ".." in inner.parts:
        return
    target = tree / inner
    if inner.name == OPAQUE:
        shutil.rmtree(target.parent, ignore_errors=True)
    elif inner.name.startswith(WHITEOUT):
        gone = inner.name.removeprefix(WHITEOUT)
        if gone not in ("", ".", ".."):
            _remove(target.with_name(gone))
    elif (member.isfile() or member.islnk()) and (content := archive.extractfile(member)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _root(files: Mapping[str, int], name: str) -> str:
    """The path of the model folder, with a slash at its end; empty if it is the whole.

    Raises:
        FetchError: there are several.
    """
    roots = sorted({found["root"] for path in files if (found := CARD.fullmatch(path))})
    if len(roots) > 1:
        raise FetchError(f"{name} holds several model folders ({', '.join(roots)}): push one")
    return roots[0] if roots else ""
