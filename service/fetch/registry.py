"""A repository of an OCI registry: manifests and blobs, by the distribution specification.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, with the tokens of
https://distribution.github.io/distribution/spec/auth/token/.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from service.fetch.pages import page
from service.fetch.source import AUTHORITY, Blocked, FetchError, Interrupted

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
    r"oci://(?P<host>(?:[A-Za-z0-9_.-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
DIGEST = r"^sha256:[0-9a-f]{64}$"
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # as ssl says it, within what httpx says
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


class Described(BaseModel):
    """A blob or a manifest, as another manifest describes it."""

    digest: str = Field(pattern=DIGEST)
    size: int = Field(ge=0)
    annotations: dict[str, str] | None = None


class Manifest(BaseModel):
    """What is read of a manifest, which has layers, or of an index, which has manifests."""

    layers: list[Described] = []
    manifests: list[Described] = []


class Token(BaseModel):
    """What the server gives that a challenge names."""

    token: str = Field(pattern=r"^[!-~]+$", validation_alias=AliasChoices("token", "access_token"))


class Login(BaseModel):
    """What `docker login` has written for one registry."""

    auth: str = Field(default="", pattern=r"^[!-~]*$")  # what a header may hold
    username: str = ""
    password: str = ""


class DockerConfig(BaseModel):
    """What is read of `config.json`."""

    auths: dict[str, Login] | None = None


class Registry:
    """Reads one repository. Credentials are those of `docker login`, in `$DOCKER_CONFIG/config.json`.

    Speaks HTTPS; with a registry of this machine HTTP, as Docker does. To be closed.
    """

    def __init__(self, reference: Reference) -> None:
        """Raises FetchError."""
        self.reference = reference
        self._login = _login(reference.host)
        scheme = "http" if LOOPBACK.fullmatch(reference.host) else "https"
        base = f"{scheme}://{reference.host}/v2/{reference.repository}/"
        with self._faults():
            self._client = httpx.Client(base_url=base, timeout=TIMEOUT, follow_redirects=True)
        self._authorization: str | None = None

    def close(self) -> None:
        self._client.close()

    def manifest(self, version: str) -> tuple[Manifest, str]:
        """A manifest or index, and its digest.

        Raises:
            FetchError: there is none, it is not what its digest says, or it cannot be used here.
            Interrupted: the registry cannot be reached.
        """
        headers = {"Accept": ", ".join(MANIFESTS)}
        with self._faults(), closing(self._get(f"manifests/{version}", headers)) as response:
            content = b""
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MOST_MANIFEST_BYTES:
                    raise FetchError(f"{self._what(version)} has too large a manifest: push the models again")
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if version.startswith("sha256:") and digest != version:
            raise FetchError(f"{self._what(version)}: the registry sent something else, {digest}: ask its operators")
        try:
            return Manifest.model_validate_json(content), digest
        except ValidationError as error:
            raise FetchError(
                f"{self._what(version)} is no manifest that can be read here ({_first(error)}): correct the address, "
                "check whether a proxy answers in its place, or push the models again"
            ) from None

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """The content of a blob from a byte on. The caller compares it with its digest.

        Raises:
            FetchError: there is none.
            Interrupted: it did not come to its end.
        """
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with self._faults(), closing(self._get(f"blobs/{digest}", headers)) as response:
            left = offset if response.status_code == 200 else 0  # ranges are optional for a registry
            for chunk in response.iter_raw():
                skipped = min(left, len(chunk))
                left -= skipped
                yield chunk[skipped:]

    def _get(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """A response, with its body unread. Answers a challenge once."""
        response = self._send(path, headers)
        if response.status_code == 401:
            response.close()
            self._authorization = self._answer(response.headers.get("WWW-Authenticate", ""))
            response = self._send(path, headers)
        if response.is_success:
            self._refuse_page(response, self._what(path.partition("/")[2]))
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
        return self._client.send(self._client.build_request("GET", path, headers={**headers, **more}), stream=True)

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
        response = httpx.get(realm, params={"scope": scope, **parameters}, headers=headers, timeout=TIMEOUT)
        if not response.is_success:
            return None
        self._refuse_page(response, str(realm))
        try:
            return f"Bearer {Token.model_validate_json(response.content).token}"
        except ValidationError as error:
            raise FetchError(f"{realm} gives no token that can be read ({_first(error)}): ask its operators") from None

    @staticmethod
    def _refuse_page(response: httpx.Response, what: str) -> None:
        """Raises Blocked if it is a web page: no registry sends one, and the same would come again."""
        if sent := page(response):
            response.close()
            raise Blocked(
                f"{what} cannot be read: {sent} came in its place, from a login page or a proxy; correct the address, "
                "log in there, or let this machine past it"
            )

    def _what(self, version: str) -> str:
        separator = "@" if version.startswith("sha256:") else ":"
        return f"oci://{self.reference.host}/{self.reference.repository}{separator}{version}"

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Names what httpx raises. Raises FetchError, Interrupted."""
        host = self.reference.host
        try:
            yield
        except httpx.TransportError as error:
            if UNTRUSTED in str(error):
                raise Blocked(f"{host} cannot be trusted ({error}): {AUTHORITY}") from None
            raise Interrupted(f"{host} cannot be reached ({str(error) or type(error).__name__})") from None
        except (httpx.RequestError, httpx.InvalidURL, UnicodeError) as error:
            # Redirects without end, a body that cannot be decoded, a name that no host can have.
            raise FetchError(
                f"{host} gives no answer that can be used ({error}): correct the address, or ask its operators"
            ) from None


def _login(host: str) -> str | None:
    """The user and password for a registry, as base64 of `user:password`; None if nobody has logged in.

    Raises:
        FetchError: the file is damaged.
    """
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = folder / "config.json"
    try:
        config = DockerConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        fault = _first(error) if isinstance(error, ValidationError) else error.strerror
        raise FetchError(f"{path} cannot be read ({fault}): log in again with `docker login {host}`") from None
    entries = config.auths or {}
    entry = entries.get(host) or entries.get(f"https://{host}") or Login()
    if entry.username and not entry.auth:
        return base64.b64encode(f"{entry.username}:{entry.password}".encode()).decode()
    return entry.auth or None


def _first(error: ValidationError) -> str:
    """The first of what is wrong, and where."""
    first = error.errors()[0]
    return "".join(f"{part}: " for part in first["loc"]) + first["msg"]
