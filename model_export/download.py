"""One published file, over HTTP, into a cache: resumed, retried, and believed only after its SHA-256 is checked."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import httpx

from model_export.disk import move_into_place
from model_export.errors import InputError, Unavailable
from model_export.progress import Progress
from service.card import sha256

logger = logging.getLogger(__name__)

ATTEMPTS = 3
BACKOFF_S = 1.0  # before the second attempt; doubled before the third
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0


def in_home(path: str) -> Path:
    """A folder for caches that is given with `~`; for a user without a home, the same below the temporary folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir(), f"resnet-service-{os.getuid()}", *Path(path).parts[1:])


def download(url: str, path: Path, digest: str, *, by_hand: str, other_disk: str) -> str:
    """Brings a file to `path` and returns its SHA-256 in hex.

    Bytes arrive in `<path>.partial`, which stays after a broken transfer and is continued by the next one. `path`
    itself appears only when the file is whole, checked and on disk.

    Args:
        digest: the expected SHA-256 in hex, or its first digits where no more are known.
        by_hand: for messages: what a user who has the file does instead ("give it with `--weights FILE`").
        other_disk: for messages: how another folder is chosen.

    Raises:
        Unavailable: there is no network, or the server does not deliver the file.
        InputError: the file is not the expected one (it is deleted), or cannot be stored.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _transfer_with_retries(url, partial)
        found = sha256(partial)
        if not found.startswith(digest):
            partial.unlink()
            raise InputError(
                f"{url} is not the published file: its SHA-256 should be {digest}, found {found}. The download was "
                f"deleted: run again, or put the right file at {path} by hand, or {by_hand}"
            )
        move_into_place(partial, path)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{url} cannot be downloaded ({_reason(error)}): try again later, or put the file at {path} by hand, "
            f"or {by_hand}"
        ) from error
    except OSError as error:
        raise InputError(_storage_fault(error, partial, f"{other_disk}, or {by_hand}")) from error
    return found


def _transfer_with_retries(url: str, partial: Path) -> None:
    for attempt in range(ATTEMPTS):
        try:
            _transfer(url, partial)
            return
        except httpx.HTTPError as error:
            if attempt + 1 == ATTEMPTS or not _worth_retrying(error):
                raise
            delay = BACKOFF_S * 2**attempt
            logger.warning("%s: %s; trying again in %.0f s", url, _reason(error), delay)
            time.sleep(delay)


def _worth_retrying(error: httpx.HTTPError) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    # Where no connection comes about there is usually no network, and the caller has something else to do: it is told
    # at once.
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    )


def _transfer(url: str, partial: Path) -> None:
    """One request, appended to what is already there.

    No `If-Range`: published names carry their digest, so the file behind one never changes, and the whole is checked.
    """
    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # a compressed body could not be resumed by offset
    if offset:
        headers["Range"] = f"bytes={offset}-"
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with (
        httpx.Client(follow_redirects=True, timeout=timeout) as client,
        closing(_open(client, url, headers)) as response,
    ):
        status = response.status_code
        continues = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        if not offset or continues or status not in (206, 416):
            response.raise_for_status()
            _write(response, partial, offset if continues else 0)
            return
    partial.unlink()  # what is there is no beginning of what the server has
    _transfer(url, partial)


def _open(client: httpx.Client, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """The response, its body still unread.

    The request is made in a thread, because httpx's connect timeout covers neither name resolution nor a host as a
    whole (each of its addresses is given the full time): behind a firewall that drops packets it would take minutes.
    """
    connected = threading.Event()
    answer: Future[httpx.Response] = Future()

    def trace(event: str, _info: object) -> None:
        if event.endswith("connect_tcp.complete"):
            connected.set()

    def send() -> None:
        try:
            request = client.build_request("GET", url, headers=headers, extensions={"trace": trace})
            answer.set_result(client.send(request, stream=True))
        except BaseException as error:
            answer.set_exception(error)
        finally:
            connected.set()

    threading.Thread(target=send, daemon=True, name="download").start()
    if not connected.wait(CONNECT_TIMEOUT_S):
        raise httpx.ConnectTimeout(f"no connection within {CONNECT_TIMEOUT_S:.0f} s")
    return answer.result()


def _write(response: httpx.Response, partial: Path, offset: int) -> None:
    """Writes the body to the file from `offset` on, and shows progress."""
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else None
    logger.info("downloading %s (%s)", response.url, f"{total / 1e6:.0f} MB" if total else "size unknown")
    with (
        partial.open("ab" if offset else "wb") as file,
        Progress(partial.name.removesuffix(".partial"), total, unit="B", initial=offset) as progress,
    ):
        for chunk in response.iter_bytes():
            file.write(chunk)
            progress.advance(len(chunk))


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
    return str(error) or type(error).__name__


def _storage_fault(error: OSError, partial: Path, remedy: str) -> str:
    folder = partial.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # A full disk hurts everything else on the machine: give the space back rather than keep a resumable part.
        partial.unlink(missing_ok=True)
        return f"no space left in {folder} for {partial.name} (removed again): free some, or {remedy}"
    return f"{partial} cannot be written ({error.strerror}): {remedy}"
