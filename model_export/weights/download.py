"""Downloads one file over HTTP into a cache: resumes, retries, and checks the SHA-256 before the file appears."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import httpx

from model_export.errors import InputError, Unavailable
from service.runtime.disk import DISK_FULL, locked, move_into_place
from service.runtime.model_folder import sha256
from service.runtime.progress import Progress

log = logging.getLogger(__name__)

ATTEMPTS = 3
BACKOFF_S = 1.0  # wait before the second attempt; doubles before the third
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0


def download(url: str, path: Path, digest: str, *, by_hand: str, other_disk: str) -> str:
    """Downloads a file to `path` and returns its SHA-256 in hex.

    Bytes go to `<path>.partial`, which a broken transfer leaves for the next one to resume. `path` itself appears only
    when the file is complete, checked and on disk. Of several processes, one downloads, and the others wait for it.

    Args:
        digest: the expected SHA-256 in hex, or its first digits if no more are known.
        by_hand: for messages: what a user who has the file can do instead ("pass a file with `--weights FILE`").
        other_disk: for messages: how to choose another folder.

    Raises:
        Unavailable: there is no network, or the server does not deliver the file.
        InputError: the file is not the expected one (it is deleted), or it cannot be stored.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            if path.exists() and (actual := sha256(path)).startswith(digest):
                return actual
            _transfer_with_retries(url, partial)
            actual = sha256(partial)
            if not actual.startswith(digest):
                partial.unlink()
                raise InputError(
                    f"{url} is not the expected file: its SHA-256 should be {digest}, but is {actual}. The download "
                    f"was deleted: run again, or put the right file at {path} by hand, or {by_hand}"
                )
            move_into_place(partial, path)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{url} cannot be downloaded ({_reason(error)}): try again later, or put the file at {path} by hand, "
            f"or {by_hand}"
        ) from error
    except OSError as error:
        raise InputError(_storage_fault(error, partial, f"{other_disk}, or {by_hand}")) from error
    return actual


def _transfer_with_retries(url: str, partial: Path) -> None:
    for attempt in range(ATTEMPTS):
        try:
            _transfer(url, partial)
            return
        except httpx.HTTPError as error:
            if attempt + 1 == ATTEMPTS or not _worth_retrying(error):
                raise
            delay = BACKOFF_S * 2**attempt
            log.warning("%s: %s; trying again in %.0f s", url, _reason(error), delay)
            time.sleep(delay)


def _worth_retrying(error: httpx.HTTPError) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    # A failure to connect usually means that there is no network. The caller has an alternative, so it learns at once.
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    )


def _transfer(url: str, partial: Path) -> None:
    """Makes one request and appends its body to the partial file.

    No `If-Range`: the files never change (torchvision's names contain their digest), and the result is checked.
    """
    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # a compressed body cannot be resumed by offset
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
    partial.unlink()  # it is not a beginning of the server's file: start over
    _transfer(url, partial)


def _open(client: httpx.Client, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """The response, with its body unread.

    The request runs in a thread, because httpx's connect timeout does not cover name resolution and applies to each
    address of a host in turn: behind a firewall that drops packets, connecting would take minutes.
    """
    connected = threading.Event()
    response: Future[httpx.Response] = Future()

    def trace(event: str, _info: object) -> None:
        if event.endswith("connect_tcp.complete"):
            connected.set()

    def send() -> None:
        try:
            request = client.build_request("GET", url, headers=headers, extensions={"trace": trace})
            response.set_result(client.send(request, stream=True))
        except BaseException as error:
            response.set_exception(error)
        finally:
            connected.set()

    threading.Thread(target=send, daemon=True, name="download").start()
    if not connected.wait(CONNECT_TIMEOUT_S):
        raise httpx.ConnectTimeout(f"no connection within {CONNECT_TIMEOUT_S:.0f} s")
    return response.result()


def _write(response: httpx.Response, partial: Path, offset: int) -> None:
    """Writes the body to the file from byte `offset` on, and shows progress."""
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else None
    log.info("downloading %s (%s)", response.url, f"{total / 1e6:.0f} MB" if total else "size unknown")
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
    if error.errno in DISK_FULL:
        # A full disk hurts everything else on the machine: free the space rather than keep a resumable part.
        partial.unlink(missing_ok=True)
        return f"no space left in {folder} for {partial.name} (now removed): free some space, or {remedy}"
    return f"{partial} cannot be written ({error.strerror}): {remedy}"
