"""What a model folder has to serve, read from the disk: versions, aliases, and the default model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from service.references import Published, Unpublished, candidates, require, split
from service.runtime.model_folder import CARD_FILE, VERSION_PATTERN, CardError, explain_empty, model_versions
from service.runtime.model_state import read_folder_state, read_state
from service.settings import Settings


class Stamp(NamedTuple):
    """Tells one published version from another, and from a later one under the same number."""

    path: Path
    card: tuple[int, int, int] | None  # inode, bytes and time of change of its card; None without one

    @classmethod
    def of(cls, path: Path) -> Stamp:
        try:
            stat = (path / CARD_FILE).stat()
        except OSError:
            return cls(path, None)
        return cls(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


class Listing(NamedTuple):
    """What there is to serve, at one moment.

    Attributes:
        wanted: by reference, the versions that may answer, the best first; see `references`.
        default: the reference for requests that name no model; None if nobody has named one.
        numbers: of all published versions, by model.
        unlisted: models whose folder is there and cannot be read at the moment.
        faults: by model, why it cannot be served at all.
    """

    wanted: Mapping[str, tuple[Stamp, ...]]
    default: str | None
    numbers: Mapping[str, tuple[int, ...]]
    unlisted: frozenset[str] = frozenset()
    faults: Mapping[str, str] = {}


def list_published(settings: Settings, *, at_start: bool = False) -> Listing:
    """Looks at the model folder. Blocks; may be called from any thread.

    The default is named by the settings or in the folder. At the start, an only model is the default by itself; later
    it does not become so.

    Raises:
        CardError: the folder cannot be read, or it is empty, as when a volume is not mounted.
        Unpublished: at the start, what the settings name is not there.
    """
    root = settings.models_dir
    versions: dict[str, dict[int, Stamp]] = {}
    for entry in model_versions(root):
        versions.setdefault(entry.name, {})[entry.version] = Stamp.of(entry.path)
    if not versions:
        raise CardError(explain_empty(root.resolve()))
    published: dict[str, Published[Stamp]] = {}
    faults: dict[str, str] = {}
    for name, numbers in versions.items():
        try:
            published[name] = Published(numbers, read_state(root / name).aliases)
        except CardError as error:
            faults[name] = str(error)
    wanted = candidates(published, settings.models, fall_back=not settings.strict)
    default = settings.default_model or read_folder_state(root).default
    if at_start:
        require(published, settings.models)
        if settings.default_model and settings.default_model not in wanted:
            raise Unpublished(f"the default model {settings.default_model} is not served: {', '.join(wanted)} are")
        names = {split(reference)[0] for reference in wanted}
        if default not in wanted:
            default = names.pop() if len(names) == 1 else None
    return Listing(
        wanted,
        default if default in wanted else None,
        {name: tuple(numbers) for name, numbers in versions.items()},
        frozenset(path.name for path in root.iterdir() if path.name not in versions and not _is_empty(path)),
        faults,
    )


def _is_empty(folder: Path) -> bool:
    """Whether a folder is not there, or has no version; not if it only cannot be listed."""
    try:
        return not any(VERSION_PATTERN.fullmatch(path.name) for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
