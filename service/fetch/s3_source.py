"""Models in a bucket of S3, or of any store that speaks its protocol."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from service.fetch.pages import page_at
from service.fetch.source import AUTHORITY, Blocked, FetchError, Interrupted
from service.fetch.transfer import retried

CONNECT_TIMEOUT = timedelta(seconds=5)
SILENCE_TIMEOUT = timedelta(seconds=30)
ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]+)(?:/(?P<prefix>.*))?")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
SENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
AWS = "https://s3.amazonaws.com"  # which answers for every region
CHUNK = 2**17
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for a public bucket AWS_SKIP_SIGNATURE=true)"

# What the server says, within what obstore says. The rest may hold any word: the bucket, the path, the address.
STATUS = re.compile(r"status code: (\d+)")
CODE = re.compile(r"<Code>(\w+)</Code>")
MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
MACHINE = "://169.254."  # where a machine of AWS keeps its credentials
UNTRUSTED = re.compile(r"InvalidCertificate\(\s*(\w+)")  # in its debug source alone
STRANGE = ("Got invalid list response", "Received non-partial response")  # of an answer with 200 that is none of S3
REDIRECTED = "Received redirect without LOCATION"  # S3 names the right region beside it, and no address


class S3Source:
    """A `Source`. Credentials, region and endpoint come from the usual AWS_ variables."""

    revision: str | None = None

    def __init__(self, url: str) -> None:
        """Raises FetchError if the URL names no bucket, or a variable cannot be used."""
        parts = ADDRESS.fullmatch(url)
        if not parts:
            raise FetchError(f"{url} names no bucket: give s3://BUCKET/PREFIX")
        self.name = url
        self._bucket = parts["bucket"]
        _check_variables()
        endpoint = _endpoint()
        self._where = f" at {endpoint}" if endpoint else ""
        self._address = (endpoint or AWS).rstrip("/")
        try:
            self._store = S3Store(
                self._bucket,
                prefix=(parts["prefix"] or "").strip("/") or None,
                client_options={
                    "allow_http": (endpoint or "").startswith("http://"),
                    "connect_timeout": CONNECT_TIMEOUT,
                    "read_timeout": SILENCE_TIMEOUT,
                    "timeout": timedelta(days=1),  # of a whole file
                },
                retry_config={"max_retries": 0},  # `transfer` does that, for every source
                config={"endpoint": endpoint} if endpoint else {},
            )
        except BaseError as error:
            raise FetchError(f"{url} cannot be read ({_said(error)}): correct the AWS_ variables") from None

    def sizes(self) -> Mapping[str, int]:
        return retried(self._listed, self.name)

    def _listed(self) -> dict[str, int]:
        try:
            sizes = {found["path"]: found["size"] for listed in self._store.list() for found in listed}
        except (BaseError, OSError) as error:
            raise self._fault(error, self.name) from None
        if not sizes and (sent := self._page(self.name)):  # obstore lists nothing in a page whose tags are closed
            raise self._no_store(self.name, sent)
        return sizes

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        try:
            found = self._store.get(path, options={"range": {"offset": offset}})
            for chunk in found.stream(min_chunk_size=CHUNK):  # a chunk that breaks off is lost
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise self._fault(error, f"{self.name.rstrip('/')}/{path}") from None

    def _fault(self, error: Exception, what: str) -> FetchError | Interrupted:
        text = _said(error)
        status = int(found[1]) if (found := STATUS.search(text)) else None
        code = found[1] if (found := CODE.search(text)) else f"HTTP {status}"
        message = found[1] if (found := MESSAGE.search(text)) else ""
        if any(said in text for said in STRANGE):
            return self._no_store(what, self._page(what) or f"something else ({' '.join(text.split())[:200]})")
        if untrusted := UNTRUSTED.search(str(error)):
            return Blocked(f"{what} cannot be read{self._where}: its certificate is {untrusted[1]}; {AUTHORITY}")
        if MACHINE in text:  # no keys are set, so it asked the machine, which is none of AWS
            return FetchError(f"{what} cannot be read, as there are no credentials: {CREDENTIALS}")
        if status is not None and (status >= 500 or status in (408, 429)):
            return Interrupted(f"{what} cannot be read{self._where} ({code})")
        if code == "NoSuchBucket":
            return FetchError(f"there is no bucket {self._bucket}{self._where}: correct the name, or AWS_ENDPOINT_URL")
        if status in (401, 403):
            return FetchError(
                f"{what} cannot be read{self._where} ({code}): {CREDENTIALS}, and let this user list the bucket and "
                "read its objects"
            )
        malformed = code == "AuthorizationHeaderMalformed" and "region" in message
        if malformed or code == "IllegalLocationConstraintException" or REDIRECTED in text:
            return FetchError(f"{what} is in another region: set AWS_REGION to that of the bucket {self._bucket}")
        if isinstance(error, FileNotFoundError) or status == 404:
            return FetchError(f"{what} does not exist{self._where}: somebody has removed it, or the address is wrong")
        if status is not None:
            return FetchError(f"{what} cannot be read{self._where} ({code}): {text}")
        return Interrupted(f"{what} cannot be read{self._where} ({text})")

    def _page(self, what: str) -> str | None:
        """The web page that is sent in place of an object or a list, on a second look: obstore tells nothing of it."""
        return page_at(f"{self._address}/{what.removeprefix('s3://')}")

    def _no_store(self, what: str, sent: str) -> Blocked:
        return Blocked(
            f"{what} cannot be read{self._where}: {sent} came in place of S3's answer, from a console, a login page or "
            "a proxy; correct AWS_ENDPOINT_URL (a store's console often has a port of its own), log in there, or let "
            "this machine past it"
        )


def _check_variables() -> None:
    """Raises FetchError if no request can hold one of them: files and secrets often end with a line break."""
    for name in SENT:
        if not os.environ.get(name, "").isprintable():
            raise FetchError(f"{name} holds a line break or another invisible character: remove it")


def _endpoint() -> str | None:
    """The address of another store than AWS; None if no variable names one. Raises FetchError."""
    for name in ENDPOINTS:
        if endpoint := os.environ.get(name):
            try:
                parts = urlsplit(endpoint)
                usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            if not usable or not endpoint.isprintable():
                raise FetchError(f"{name} is {endpoint!r}: give an address like https://minio.example.com:9000")
            return endpoint
    return None


def _said(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]
