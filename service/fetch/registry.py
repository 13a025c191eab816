"""A repository of an OCI registry: manifests and blobs, by the distribution specification.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, with the tokens of
https://distribution.github.io/distribution/spec/auth/token/.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from service.fetch.source import FetchError, Interrupted

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MOST_MANIFEST_BYTES = 4 * 2**20  # as the specification asks of registries
TIMEOUT = httpx.Timeout(30, connect=5)
LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?")
REFERENCE = re.compile(
    r"oci://(?P<host>[^/\s]+)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Reference(NamedTuple):
    """What `oci://HOST/REPOSITORY[:TAG][@DIGEST]` names."""

    host: str
    repository: str
    version: str  # a tag, or a digest

    @classmethod
    def parse(cls, url: str) -> Reference:
        """Raises FetchError."""
        if not (found := REFERENCE.fullmatch(url)):
            raise FetchError(f"{url} names no image: give oci://REGISTRY/REPOSITORY:TAG, or @sha256:DIGEST")
        return cls(found["host"], found["repository"], found["digest"] or found["tag"] or "latest")


class Registry:
    """Reads one repository. Credentials are those of `docker login`, in `$DOCKER_CONFIG/config.json`.

    Speaks HTTPS; with a registry of this machine HTTP, as Docker does. To be closed.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._login = _login(reference.host)
        scheme = "http" if LOOPBACK.fullmatch(reference.host) else "https"
        base = f"{scheme}://{reference.host}/v2/{reference.repository}/"
        self._client = httpx.Client(base_url=base, timeout=TIMEOUT, follow_redirects=True)
        self._authorization: str | None = None

    def close(self) -> None:
        self._client.close()

    def manifest(self, version: str) -> tuple[dict[str, Any], str]:
        """A manifest or index, and its digest.

        Raises:
            FetchError: there is none, or it is not what its digest says.
            Interrupted: the registry cannot be reached.
        """
        try:
            with closing(self._get(f"manifests/{version}", {"Accept": ", ".join(MANIFESTS)})) as response:
                content = b""
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MOST_MANIFEST_BYTES:
                        raise FetchError(f"{self._what(version)} has too large a manifest: push the models again")
        except httpx.TransportError as error:
            raise self._interrupted(error) from None
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if version.startswith("sha256:") and digest != version:
            raise FetchError(f"{self._what(version)}: the registry sent something else, {digest}: ask its operators")
        return json.loads(content), digest

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """The content of a blob from a byte on. The caller compares it with its digest.

        Raises:
            FetchError: there is none.
            Interrupted: it did not come to its end.
        """
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with closing(self._get(f"blobs/{digest}", headers)) as response:
                left = offset if response.status_code == 200 else 0  # ranges are optional for a registry
                for chunk in response.iter_raw():
                    skipped = min(left, len(chunk))
                    left -= skipped
                    yield chunk[skipped:]
        except httpx.TransportError as error:
            raise self._interrupted(error) from None

    def _get(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """A response, with its body unread. Answers a challenge once."""
        response = self._send(path, headers)
        if response.status_code == 401:
            response.close()
            self._authorization = self._answer(response.headers.get("WWW-Authenticate", ""))
            response = self._send(path, headers)
        if response.is_success:
            return response
        response.close()
        version = path.partition("/")[2]
        status = f"HTTP {response.status_code} {response.reason_phrase}"
        if response.status_code in (401, 403):
            raise FetchError(
                f"{self._what(version)} cannot be read ({status}): log in with `docker login {self.reference.host}`, "
                "or mount the secret of the registry as config.json and set DOCKER_CONFIG to its folder"
            )
        if response.status_code == 404:
            raise FetchError(f"{self._what(version)} does not exist: correct the address, or push the models there")
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise Interrupted(f"{self._what(version)} cannot be read ({status})")
        raise FetchError(f"{self._what(version)} cannot be read ({status}): ask the operators of the registry")

    def _send(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        more = {"Authorization": self._authorization} if self._authorization else {}
        try:
            return self._client.send(self._client.build_request("GET", path, headers={**headers, **more}), stream=True)
        except httpx.TransportError as error:
            raise self._interrupted(error) from None

    def _answer(self, challenge: str) -> str | None:
        """The header that answers a challenge; None if there is nothing to answer with."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return f"Basic {self._login}" if self._login else None
        parameters = dict(CHALLENGE.findall(rest))
        if kind.lower() != "bearer" or "realm" not in parameters:
            return None
        realm = httpx.URL(parameters.pop("realm"))
        if realm.scheme != "https" and not LOOPBACK.fullmatch(realm.host):
            raise FetchError(f"{self.reference.host} wants credentials sent without TLS, to {realm}: ask its operators")
        headers = {"Authorization": f"Basic {self._login}"} if self._login else {}
        scope = f"repository:{self.reference.repository}:pull"
        try:
            response = httpx.get(realm, params={"scope": scope, **parameters}, headers=headers, timeout=TIMEOUT)
        except httpx.TransportError as error:
            raise self._interrupted(error) from None
        if not response.is_success:
            return None
        answer = response.json()
        return f"Bearer {answer.get('token') or answer.get('access_token')}"

    def _what(self, version: str) -> str:
        separator = "@" if version.startswith("sha256:") else ":"
        return f"oci://{self.reference.host}/{self.reference.repository}{separator}{version}"

    def _interrupted(self, error: Exception) -> Interrupted:
        return Interrupted(f"{self.reference.host} cannot be reached ({str(error) or type(error).__name__})")


def _login(host: str) -> str | None:
    """The user and password for a registry, as base64 of `user:password`; None if nobody has logged in.

    Raises:
        FetchError: the file is damaged.
    """
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = folder / "config.json"
    try:
        entries = json.loads(path.read_bytes()).get("auths", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise FetchError(f"{path} cannot be read ({error}): log in again with `docker login {host}`") from None
    entry = entries.get(host) or entries.get(f"https://{host}") or {}
    if entry.get("auth"):
        return str(entry["auth"])
    if entry.get("username"):
        return base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
    return None
