"""Prints the memory that decoding takes: for each file named, the growth of this process's peak in bytes.

    python -m tests.service.runtime.images.decode_memory scaled|whole FILE...

Every file is decoded in a forked process, so that no peak hides a smaller one.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images.pictures import encode, photograph

MAX_PIXELS = 10**9


def peak() -> int:
    """The largest resident size that this process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def growth(data: bytes, *, scaled: bool) -> int:
    before = peak()
    decode(data, Preprocessing(), max_pixels=MAX_PIXELS, scaled=scaled)
    return peak() - before


def main(scaled: bool, paths: list[str]) -> None:
    for file_format in ("JPEG", "PNG", "WEBP"):  # loads what is loaded on first use
        decode(encode(photograph(300, 300), file_format), Preprocessing(), max_pixels=MAX_PIXELS)
    for path in paths:
        data = Path(path).read_bytes()
        if not (child := os.fork()):
            print(growth(data, scaled=scaled), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1] == "scaled", sys.argv[2:])
