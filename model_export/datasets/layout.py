"""How to read a folder of images: what `--split` and `--ignore` say, and what is always ignored."""

from __future__ import annotations

import re
import unicodedata
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# What operating systems and file servers leave between the images (Synology, QNAP, NetApp, Windows, macOS, ext4), in
# lower case. Whole names, not prefixes: a class may be called "#hashtag".
LEFTOVERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@sharesnap", "@tmp", "@transcode", "@__thumb"),
    *("#recycle", "#snapshot", "~snapshot", "lost+found", "__pycache__"),
    *("$recycle.bin", "recycler", "system volume information", "$extend", "$winreagent", "config.msi", "msocache"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "thefindbycontentfolder"),
}
NUMBERED_LEFTOVERS = re.compile(r"found\.\d{3}|@gmt-[\d.-]+|\$windows\.~\w+")  # chkdsk, Samba, Windows Update


class Layout(NamedTuple):
    """What a user says about a folder of images where the guess would be wrong.

    Attributes:
        split: "auto": folders named train and val, or similarly, are the two parts; "none": every folder is a class;
            otherwise the names of the two parts, such as "Training,Testing".
        ignore: names or patterns (`*_old`) of folders and files to ignore.
    """

    split: str = "auto"
    ignore: tuple[str, ...] = ()

    def ignores(self, name: str) -> bool:
        """Whether a file or folder with this name is ignored: hidden, a leftover, or matched by `ignore`."""
        return (
            name.startswith(".")
            or name.casefold() in LEFTOVERS
            or NUMBERED_LEFTOVERS.fullmatch(name.casefold()) is not None
            or any(matches(name, pattern) for pattern in self.ignore)
        )


AUTO = Layout()


def matches(name: str, pattern: str) -> bool:
    """Whether a name equals or matches a pattern of `--ignore`, in whatever Unicode form either is."""
    name, pattern = unicodedata.normalize("NFC", name), as_named(pattern)
    return name == pattern or fnmatchcase(name, pattern)


@lru_cache
def as_named(text: str) -> str:
    """A name as typed, without the `/` that shells complete and a leading `./`, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", str(Path(text)))
