"""What a model folder has to serve, read from the disk: versions, aliases, and the default model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from service.references import Published, candidates, require
from service.runtime.model_folder import CARD_FILE, CardError, explain_empty, model_versions
from service.runtime.model_state import Unpublished, read_folder_state, read_state, split
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
        faults: by model, why nothing is known of it: its folder or its state cannot be read. `wanted` lacks it.
    """

    wanted: Mapping[str, tuple[Stamp, ...]]
    default: str | None
    faults: Mapping[str, str] = {}


def list_published(settings: Settings, *, at_start: bool = False) -> Listing:
    """Looks at the model folder. Blocks; may be called from any thread.

    The default is named by the settings or in the folder. At the start, an only model is the default by itself; later
    it does not become so.

    Raises:
        CardError: the folder cannot be read, or it is empty, as when a volume is not mounted; at the start, also if
            nothing is known of the default model.
        Unpublished: at the start, what the settings name is not there.
    """
    root = settings.models_dir
    versions: dict[str, dict[int, Stamp]] = {}
    faults: dict[str, str] = {}
    for entry in model_versions(root, faults.__setitem__):
        versions.setdefault(entry.name, {})[entry.version] = Stamp.of(entry.path)
    if not versions:
        raise CardError("; ".join(faults.values()) or explain_empty(root.resolve()))
    published: dict[str, Published[Stamp]] = {}
    for name, numbers in versions.items():
        try:
            published[name] = Published(numbers, read_state(root / name).aliases)
        except CardError as error:
            faults[name] = str(error)
    if settings.models:
        named = {split(reference)[0] for reference in settings.models}
        faults = {name: fault for name, fault in faults.items() if name in named}
    wanted = candidates(published, settings.models, fall_back=not settings.strict)
    default = settings.default_model or read_folder_state(root).default
    if at_start:
        if default and (fault := faults.get(split(default)[0])):
            raise CardError(fault)
        require(published, [reference for reference in settings.models if split(reference)[0] not in faults])
        if settings.default_model and settings.default_model not in wanted:
            raise Unpublished(f"the default model {settings.default_model} is not served: {', '.join(wanted)} are")
        names = {split(reference)[0] for reference in wanted}
        if default not in wanted:
            default = names.pop() if len(names) == 1 else None
    return Listing(wanted, default if default in wanted else None, faults)
