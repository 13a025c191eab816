"""The digest of a data set: equal only if the images and their classes are.

It is the SHA-256 of a listing such as `sha256sum` prints: for each image a line with its own SHA-256, two blanks and
its path below the data set's folder, which begins with its class. The lines are sorted by path. So the digest does not
depend on where the folder lies, and other tools can compute it (docs/training.md).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable


def listing_digest(images: Iterable[tuple[str, str]]) -> str:
    """The digest of a data set, in hex.

    Args:
        images: for each, its path (`class/file`) and its SHA-256 in hex. Paths are hashed in Unicode's composed form
            (NFC), as macOS decomposes them.
    """
    named = ((unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape"), own) for path, own in images)
    digest = hashlib.sha256()
    for path, own in sorted(named):
        digest.update(own.encode() + b"  " + path + b"\n")
    return digest.hexdigest()
