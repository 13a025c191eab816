"""Where models come from: a tree of files, whose paths begin at the model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

# The remedy for a certificate that is not trusted.
AUTHORITY = (
    "a proxy may answer in its place; if the certificate is right, set SSL_CERT_FILE to the file of the authority that "
    "signed it"
)


class FetchError(Exception):
    """What cannot be fetched, however often it is tried. The message names the fault and the remedy."""


class Interrupted(Exception):
    """The network or the server failed: trying again may help. The message names the fault."""


class Blocked(Interrupted):
    """Something else answers in the place of the server: not to be tried again before somebody has changed that. The
    message names fault and remedy."""


class Source(Protocol):
    """One place with a model folder.

    Attributes:
        name: as the user has written it; for messages.
        revision: tells this content from any other; None if only a look at the files can.
    """

    name: str
    revision: str | None

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file, by path: `resnet50/1/model.onnx`. Tries again by itself, unlike `read`.

        Raises:
            FetchError, Interrupted: they cannot be listed.
        """

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """The content of a file from byte `offset` on, which is less than its size.

        Raises:
            FetchError, Interrupted: it cannot be read, or not to its end; or, read from its first byte, it is not what
                the source's own digest of it says.
        """
