"""One run of `resnet fetch`: from its options to its exit status."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from service.fetch.copying import bring_state, fetch_version, work_folder
from service.fetch.folder_source import FolderSource
from service.fetch.source import Blocked, FetchError, Interrupted, Source
from service.fetch.tree import Tree
from service.runtime.disk import write_atomically
from service.runtime.model_folder import CardError, read_card, verify_digests
from service.settings_lists import split_list

FAILED, INTERRUPTED = 1, 130
RECORD = ".fetched.json"  # which image was fetched, for sources that must be downloaded to be listed


def fetch(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("service").setLevel(logging.INFO)
    references = split_list(args.models)
    try:
        with work_folder(args.models_dir) as work, _opened(args.source, work) as source:
            return _fetch(source, args.models_dir, references, work)
    except (FetchError, CardError, Blocked) as error:
        return _error(error)
    except Interrupted as error:
        return _error(f"{error}: check the network, and run again to go on where this ended")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _error(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted: run again to go on", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _opened(source: str, work: Path) -> Iterator[Source]:
    """Raises FetchError, Interrupted."""
    scheme = source.partition("://")[0] if "://" in source else ""
    if scheme == "s3":
        from service.fetch.s3_source import S3Source  # obstore, which only buckets need

        yield S3Source(source)
    elif scheme == "oci":
        from service.fetch.oci_source import OciSource  # httpx, which only registries need
        from service.fetch.registry import Reference, Registry

        with closing(Registry(Reference.parse(source))) as registry:
            yield OciSource(source, registry, work)
    elif scheme:
        raise FetchError(f"{source} is no source of models: give s3://BUCKET/PREFIX, oci://IMAGE or a folder")
    else:
        yield FolderSource(Path(source).expanduser(), source)


def _fetch(source: Source, root: Path, references: Sequence[str], work: Path) -> int:
    """Fetches what is wanted. A version that cannot be used does not keep the others away. Returns the exit status."""
    record = {"source": source.name, "models": list(references), "revision": source.revision}
    if source.revision is not None and _recorded(root, record):
        print(f"nothing has changed: {source.name} is still {source.revision}")
        return 0
    tree = Tree(source)
    wanted = tree.select(references)
    faults: list[FetchError] = []
    for version in wanted:
        try:
            fetched = fetch_version(tree, version, root, work)
        except FetchError as error:
            faults.append(error)
        else:
            print(f"{version}: {f'fetched {fetched / 1e6:.1f} MB' if fetched else 'is there'}", flush=True)
    bring_state(tree, root)
    for fault in faults:
        _error(fault)
    if faults:
        return FAILED
    if source.revision is not None:
        folders = [f"{version.name}/{version.number}" for version in wanted]
        write_atomically(root / RECORD, json.dumps({**record, "folders": folders}).encode())
    return 0


def _recorded(root: Path, record: Mapping[str, object]) -> bool:
    """Whether the last run has fetched the same, and everything is still whole."""
    try:
        last = json.loads((root / RECORD).read_bytes())
        folders = last.pop("folders")
        if last != record:
            return False
        for folder in folders:
            verify_digests(root / folder, read_card(root / folder))
    except (OSError, ValueError, LookupError, AttributeError, CardError):
        return False
    return True


def _error(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return FAILED
