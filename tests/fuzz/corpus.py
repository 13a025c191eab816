"""The test images of Pillow, libjpeg-turbo and libwebp: what becomes of each.

`corpus.txt` lists their SHA-256, what `decode` does with them, and their paths; the files are not part of this project.
`python -m tests.fuzz.corpus FOLDER` decodes those that lie in a folder of checkouts (FOLDER/Pillow,
FOLDER/libjpeg-turbo, FOLDER/libwebp) and compares; `--write` writes the list.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.runtime.faults import ImageFault
from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing

LIST = Path(__file__).with_name("corpus.txt")
MAX_PIXELS = 64_000_000
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".apng", ".mpo"}


class Entry(NamedTuple):
    sha256: str
    outcome: str  # the upright size, or the name of the fault
    path: str

    @classmethod
    def of(cls, file: Path, root: Path) -> Entry:
        data = file.read_bytes()
        return cls(hashlib.sha256(data).hexdigest(), outcome(data), str(file.relative_to(root)))


def outcome(data: bytes) -> str:
    """What `decode` does with a file. Anything but an image or an ImageFault is raised."""
    try:
        decoded = decode(data, Preprocessing(), max_pixels=MAX_PIXELS)
    except ImageFault as fault:
        return fault.slug
    return f"{decoded.width}x{decoded.height}"


def entries(root: Path) -> Iterator[Entry]:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    for number, file in enumerate(files, 1):
        print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
        yield Entry.of(file, root)
    print(file=sys.stderr)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="write the list instead of comparing with it")
    parser.add_argument("--list", type=Path, default=LIST)
    options = parser.parse_args(arguments)
    found = list(entries(options.folder))
    if options.write:
        options.list.write_text("".join(f"{' '.join(entry)}\n" for entry in found))
        return 0
    expected = {}
    for line in options.list.read_text().splitlines():
        entry = Entry(*line.split(" ", 2))
        expected[entry.sha256] = entry
    known = [entry for entry in found if entry.sha256 in expected]
    changed = [entry for entry in known if entry.outcome != expected[entry.sha256].outcome]
    for entry in changed:
        print(f"{entry.path}: {entry.outcome}, it was {expected[entry.sha256].outcome}")
    different = len({entry.sha256 for entry in known})
    print(f"{different} of {len(expected)} listed files found, {len(changed)} with another outcome")
    return 1 if changed or not known else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
