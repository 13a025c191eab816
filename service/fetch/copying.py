"""Brings versions into a model folder: each appears there whole and verified, or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from service.fetch.source import FetchError
from service.fetch.transfer import download
from service.fetch.tree import Tree, Wanted
from service.runtime.disk import DISK_FULL, flush, flush_readable, link, locked, remove_folder
from service.runtime.model_card import RESERVED_NAMES, ModelCard
from service.runtime.model_folder import (
    CARD_FILE,
    CLASSIFIER_FILE,
    SELF_TEST_FILE,
    CardError,
    model_versions,
    read_card,
    sha256,
    verify_digests,
)
from service.runtime.model_state import ModelState
from service.runtime.state_changes import change_folder_state, change_state

log = logging.getLogger(__name__)

WORK = ".fetching"  # no reader takes it for a model; an interrupted run leaves in it what the next one goes on with


@contextmanager
def work_folder(root: Path) -> Iterator[Path]:
    """The folder for what has come in part, on the disk of the model folder. For one process at a time; others wait.

    It is removed at the end, also after a FetchError and on a full disk; not after an interruption.

    Raises:
        FetchError: the disk is full.
        OSError: it cannot be made or written.
    """
    work = root / WORK
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            with suppress(FileExistsError):
                work.mkdir()
            try:
                stack.enter_context(locked(work))
            except FileNotFoundError:  # the process that had it has ended
                continue
            break
        try:
            yield work
        except FetchError:
            shutil.rmtree(work)
            raise
        except OSError as error:
            if error.errno in DISK_FULL:
                shutil.rmtree(work)  # a full disk hurts everything else on the machine
                raise FetchError(f"{root} has no space left: free some, or fetch to another disk") from None
            raise
        shutil.rmtree(work)


def fetch_version(tree: Tree, wanted: Wanted, root: Path, work: Path) -> int:
    """Brings one version into the model folder, unless it is there. Files that are there, in any version of the model,
    are not fetched again.

    Returns:
        The bytes that were fetched: 0 if it was there.

    Raises:
        FetchError: it is incomplete, not what its card says, or too large for the disk; nothing of it stays.
        Interrupted: the network failed; what has come stays for the next run.
        OSError: it cannot be written.
    """
    content = tree.read(f"{wanted.name}/{wanted.number}/{CARD_FILE}") if CARD_FILE in wanted.files else None
    target, staging = root / wanted.name / str(wanted.number), work / wanted.name / str(wanted.number)
    try:
        if wanted.name in RESERVED_NAMES:
            raise FetchError(
                f"no model can be called {wanted.name}, because paths of the service end in it: publish "
                f"{_at(tree, wanted)} again under another name"
            )
        if content is None:
            raise FetchError(f"{_at(tree, wanted)} has no {CARD_FILE}: upload the whole folder again")
        if _is_there(target, content, wanted):
            return 0
        staging.mkdir(parents=True, exist_ok=True)
        (staging / CARD_FILE).write_bytes(content)
        fetched = _fill(tree, wanted, read_card(staging), staging, _there(root, wanted.name))
        flush_readable(staging)
        if target.exists():
            remove_folder(target)
        target.parent.mkdir(exist_ok=True)
        staging.rename(target)
        flush(target.parent)
    except CardError as error:
        shutil.rmtree(staging)
        raise FetchError(f"{_at(tree, wanted)} cannot be used: {error}") from None
    except FetchError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            shutil.rmtree(staging, ignore_errors=True)
            raise FetchError(
                f"{root} has no space left for {wanted}: free some, or fetch fewer with --models"
            ) from None
        raise
    return fetched + len(content)


def bring_state(tree: Tree, root: Path) -> None:
    """Brings the aliases and the default of the source, as far as what they name is in the folder.

    Raises:
        CardError, OSError: the state of the folder cannot be read or written.
    """
    here: dict[str, set[int]] = {}
    for version in model_versions(root):
        here.setdefault(version.name, set()).add(version.version)
    for name, theirs in tree.states.items():
        if name not in here:
            continue
        present = here[name]

        def change(ours: ModelState, theirs: ModelState = theirs, present: set[int] = present) -> ModelState:
            return ours.model_copy(
                update={
                    "aliases": {
                        alias: number
                        for alias, number in {**ours.aliases, **theirs.aliases}.items()
                        if number in present
                    },
                    "last_version": max(ours.last_version, theirs.last_version),
                    "replaced": theirs.replaced or ours.replaced,
                }
            )

        change_state(root / name, change)
    if tree.default in here:
        change_folder_state(root, lambda state: state.model_copy(update={"default": tree.default}))


def _fill(tree: Tree, wanted: Wanted, card: ModelCard, staging: Path, there: dict[str, Path]) -> int:
    """Fills a folder with the files of a card. Returns how many bytes were fetched. Raises as `fetch_version`."""
    fetched = 0
    for name, digest in _digests(card).items():
        path, at = staging / name, f"{_at(tree, wanted)}/{name}"
        if name not in wanted.files:
            if name == CLASSIFIER_FILE:
                continue  # older releases leave it behind; only explanations need it
            raise FetchError(f"{at} is missing, and the model's card names it: upload the whole folder again")
        if not path.exists() and digest in there and sha256(there[digest]) == digest:
            link(there[digest], path)
        if path.exists() and sha256(path) == digest:
            continue
        if path.exists() and path.stat().st_nlink > 1:
            path.unlink()  # a published file by another name: nothing may be appended to it
        resumed = path.exists()
        for _ in range(2 if resumed else 1):  # what an earlier run has left may not be this file's beginning
            before = path.stat().st_size if path.exists() else 0
            source_path = f"{wanted.name}/{wanted.number}/{name}"
            size = wanted.files[name]
            download(partial(tree.source.read, source_path), path, size, f"{wanted} {name}")
            fetched += max(size - before, 0)
            actual = sha256(path)
            if actual == digest:
                break
            path.unlink()
        else:
            raise FetchError(
                f"{at} has {wanted.files[name]} bytes with SHA-256 {actual}, but the model's card says {digest}: it is "
                "damaged or only a part; upload the folder again"
            )
    return fetched


def _digests(card: ModelCard) -> dict[str, str]:
    """The SHA-256 of each file that a card names."""
    digests = {entry.file: entry.sha256 for entry in card.files.values()} | {SELF_TEST_FILE: card.self_test_sha256}
    return digests | ({CLASSIFIER_FILE: card.classifier_sha256} if card.classifier_sha256 else {})


def _is_there(target: Path, card: bytes, wanted: Wanted) -> bool:
    """Whether a version is in the folder, with this card and whole."""
    try:
        if (target / CARD_FILE).read_bytes() != card:
            return False
        verify_digests(target, read_card(target))
    except (OSError, CardError):
        if target.exists():
            log.warning("%s is damaged here: its broken files are fetched again", wanted)
        return False
    return CLASSIFIER_FILE not in wanted.files or (target / CLASSIFIER_FILE).exists()


def _there(root: Path, name: str) -> dict[str, Path]:
    """The files of a model that are in the folder, by the SHA-256 that their cards say."""
    found: dict[str, Path] = {}
    for version in model_versions(root):
        if version.name != name:
            continue
        try:
            digests = _digests(read_card(version.path))
        except CardError:
            continue
        found |= {digest: version.path / file for file, digest in digests.items() if (version.path / file).exists()}
    return found


def _at(tree: Tree, wanted: Wanted) -> str:
    return f"{tree.source.name.rstrip('/')}/{wanted.name}/{wanted.number}"
