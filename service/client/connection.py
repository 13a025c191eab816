"""How both clients connect."""

from __future__ import annotations

import ssl
from os import PathLike
from typing import Any

import httpx

DEADLINE_S = 60.0
RETRIES = 5
CONCURRENCY = 16
# The service closes connections after 5 s without a request: sooner, no request meets one that is just being closed.
IDLE_S = 4.0

Verify = bool | str | PathLike[str] | ssl.SSLContext


def options(url: str, api_key: str | None, verify: Verify) -> dict[str, Any]:
    """The arguments of httpx's clients.

    Raises:
        OSError: the certificates in the file `verify` cannot be read.
        ValueError: the address or the key cannot be used.
    """
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an address: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"{url!r} is not the address of a service: give one like http://127.0.0.1:8000")
    headers = {"User-Agent": "resnet-service-client"}
    if api_key is not None:
        key = api_key.strip()  # files of keys end in a line break
        if not (key and key.isascii() and key.isprintable()):
            raise ValueError("the key is empty or has characters that no key has: copy it again")
        # Not as Authorization, which httpx takes for the name and password of a proxy, from the address or ~/.netrc.
        headers["X-API-Key"] = key
    if isinstance(verify, str | PathLike):  # over http, too: a file that is not there is a mistake
        verify = ssl.create_default_context(cafile=verify)
    elif address.scheme == "http":
        verify = False  # there is no certificate, and loading those of certifi takes 20 ms
    # A connection for each thread or task: their number is limited where they are started.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    return {"base_url": address, "headers": headers, "verify": verify, "limits": limits}


def check(deadline: float, retries: int) -> None:
    """Raises ValueError."""
    if not deadline > 0:
        raise ValueError(f"a deadline is a number of seconds above 0, not {deadline}")
    if retries < 0:
        raise ValueError(f"the number of retries is at least 0, not {retries}")


def check_concurrency(concurrency: int) -> None:
    """Raises ValueError."""
    if concurrency < 1:
        raise ValueError(f"the number of images at once is at least 1, not {concurrency}")
