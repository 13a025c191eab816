"""Models in a bucket of S3, or of any store that speaks its protocol."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from service.fetch.source import FetchError, Interrupted
from service.fetch.transfer import retried

CONNECT_TIMEOUT = timedelta(seconds=5)
SILENCE_TIMEOUT = timedelta(seconds=30)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CHUNK = 2**17
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for a public bucket AWS_SKIP_SIGNATURE=true)"

# What the server says, within what obstore says.
STATUS = re.compile(r"status code: (\d+)")
CODE = re.compile(r"<Code>(\w+)</Code>")


class S3Source:
    """A `Source`. Credentials, region and endpoint come from the usual AWS_ variables."""

    revision: str | None = None

    def __init__(self, url: str) -> None:
        """Raises FetchError if the URL names no bucket."""
        parts = urlsplit(url)
        if not parts.netloc:
            raise FetchError(f"{url} names no bucket: give s3://BUCKET/PREFIX")
        self.name = url
        self._bucket = parts.netloc
        endpoint = next(filter(None, map(os.environ.get, ENDPOINTS)), None)
        self._where = f" at {endpoint}" if endpoint else ""
        self._store = S3Store(
            self._bucket,
            prefix=parts.path.strip("/") or None,
            endpoint=endpoint,
            client_options={
                "allow_http": (endpoint or "").startswith("http://"),
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": SILENCE_TIMEOUT,
                "timeout": timedelta(days=1),  # of a whole file
            },
            retry_config={"max_retries": 0},  # `transfer` does that, for every source
        )

    def sizes(self) -> Mapping[str, int]:
        return retried(self._listed, self.name)

    def _listed(self) -> dict[str, int]:
        try:
            return {found["path"]: found["size"] for page in self._store.list() for found in page}
        except (BaseError, OSError) as error:
            raise self._fault(error, self.name) from None

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        try:
            found = self._store.get(path, options={"range": {"offset": offset}})
            for chunk in found.stream(min_chunk_size=CHUNK):  # a chunk that breaks off is lost
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise self._fault(error, f"{self.name.rstrip('/')}/{path}") from None

    def _fault(self, error: Exception, what: str) -> FetchError | Interrupted:
        text = str(error).partition("\n\nDebug source")[0]
        status = int(found[1]) if (found := STATUS.search(text)) else None
        code = found[1] if (found := CODE.search(text)) else f"HTTP {status}"
        if "169.254." in text:  # no keys are set, so it asked the machine, which is none of AWS
            return FetchError(f"{what} cannot be read, as there are no credentials: {CREDENTIALS}")
        if code == "NoSuchBucket":
            return FetchError(f"there is no bucket {self._bucket}{self._where}: correct the name, or AWS_ENDPOINT_URL")
        if status in (401, 403):
            return FetchError(
                f"{what} cannot be read{self._where} ({code}): {CREDENTIALS}, and let this user list the bucket and "
                "read its objects"
            )
        if "region" in text:
            return FetchError(f"{what} is in another region: set AWS_REGION to that of the bucket {self._bucket}")
        if isinstance(error, FileNotFoundError) or status == 404:
            return FetchError(f"{what} does not exist{self._where}: somebody has removed it, or the address is wrong")
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            return FetchError(f"{what} cannot be read{self._where} ({code}): {text}")
        return Interrupted(f"{what} cannot be read{self._where} ({code if status else text})")
