"""Reasons as strangers may read them: without paths and digests. The log has them whole."""

from __future__ import annotations

import re
import sys
from pathlib import Path

DIGEST = re.compile(r"\b[0-9a-fA-F]{32,}\b")
IN_NAMES = r"[^\s/:;,'\"`()]"
# A URL, which stays, or an absolute path, of which the last name stays.
PATH = re.compile(rf"(?P<url>\bhttps?://\S+)|(?<![\w./])~?/+(?:{IN_NAMES}+/+)*(?P<name>{IN_NAMES}+)")


def redacted(reason: str, *folders: Path) -> str:
    """The last names of paths stay, and so do URLs.

    Args:
        folders: those that the reason may name besides Python's own; their names may hold blanks.
    """
    for folder in (*folders, *(folder.resolve() for folder in folders), sys.prefix):
        reason = reason.replace(f"{folder}/", "")
    return DIGEST.sub("…", PATH.sub(lambda found: found["url"] or found["name"], reason))
