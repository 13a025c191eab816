"""Decoding that dies of one image, as of a decoder's fault or for want of memory."""

from __future__ import annotations

import os
import signal

from service.bulk.cluster.stages import Decoding
from service.bulk.rows import Problem
from service.runtime.images.decoding import Decoded

FATAL = b"fatal"  # the image


class Mortal(Decoding):
    """In place of `Decoding`; machines import it by its name."""

    def decoded(self, data: bytes) -> Decoded | Problem:
        if data == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decoded(data)
