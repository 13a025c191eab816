"""Fuzzes decoding: `python -m tests.fuzz.decoding --bodies 1000000` (needs the extra `fuzz`).

Pillow's Python code is instrumented as well; its C code and libraries run as they are.
"""

from __future__ import annotations

import contextlib
import importlib

from service.runtime.faults import ImageFault
from service.runtime.preprocessing import Preprocessing

TINY = Preprocessing(resize=8, crop=8)
MAX_PIXELS = 100_000
MAX_LENGTH = 4096


def decode_any(data: bytes) -> None:
    """Decodes a body. Anything but a picture or an image fault is a finding."""
    from service.runtime.images.decoding import decode
    from service.runtime.images.headers import read_header

    with contextlib.suppress(ImageFault):
        header = read_header(data, TINY, max_pixels=MAX_PIXELS)
        decoded = decode(data, TINY, max_pixels=MAX_PIXELS)
        assert decoded.pixels.shape == (3, 8, 8)
        assert {decoded.width, decoded.height} == {header.width, header.height}


if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["service.runtime.images", "PIL"]):
        importlib.import_module("service.runtime.images.decoding")
    from tests.fuzz.running import run
    from tests.service.runtime.images.files import of_every_mode
    from tests.service.runtime.images.hostile import FILES
    from tests.service.runtime.images.pictures import photograph

    seeds = [
        *(data for turned in (1, 6) for data in of_every_mode(photograph(19, 13), turned).values()),
        *(hostile(300) for hostile in FILES.values()),
    ]
    run(decode_any, seeds, max_length=MAX_LENGTH)
