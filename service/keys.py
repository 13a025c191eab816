"""API keys: the file that names them, and `python -m service.keys new NAME`, which makes one.

The file is TOML, one table for each key:

    [batch-job]
    sha256 = "9f86d081..."         # of the key; the key itself is stored nowhere
    scopes = ["classify"]          # classify, metrics, admin
    rate = 50                      # optional: requests per second,
    burst = 100                    #   and how many may come at once; default: one second's worth
    concurrency = 8                # optional: requests in the service at once

A key is 32 random bytes, so nobody can guess it, and a plain SHA-256 protects it. Slow hashes with salt are for
passwords, which people choose.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.allowance import Allowance

log = logging.getLogger(__name__)

Scope = Literal["classify", "metrics", "admin"]

# How requests without a valid key appear in metrics and log; no key may have these names.
ANONYMOUS = "anonymous"  # no key was sent
INVALID = "invalid"  # a key was sent that nobody has

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOKEN_PREFIX = "resnet_"  # lets scanners for leaked secrets recognise a key
TOKEN_BYTES = 32
LOOK_EVERY_S = 1.0
LEAST_RATE, MOST_RATE = 1e-6, 10**9  # requests per second: within them, Allowance cannot overflow


class KeysError(Exception):
    """The keys file cannot be used. The message names the fault and the remedy, and no content of the file."""


class Entry(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    rate: float | None = Field(default=None, ge=LEAST_RATE, le=MOST_RATE, allow_inf_nan=False)
    burst: int | None = Field(default=None, ge=1, le=MOST_RATE)
    concurrency: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        if self.burst and self.rate is None:
            raise ValueError("burst is set without rate: set both")
        return self


class Key(NamedTuple):
    """A key in force."""

    name: str
    digest: bytes
    scopes: tuple[Scope, ...]
    allowance: Allowance


class KeyFile:
    """The keys of a file. Follows its changes, also those that swap a symbolic link (Kubernetes' secret mounts).

    If a changed file is missing or broken, the keys of before stay in force. Not for several threads.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises KeysError if the file is missing or broken."""
        self._path = path
        self._clock = clock
        self._state = self._stat()
        self._keys: list[Key] = []
        self._read()
        self._look_at = clock() + LOOK_EVERY_S

    def find(self, token: str) -> Key | None:
        """The key that a client sent, if it is one."""
        self._follow()
        digest = sha256(token)
        found = None
        for key in self._keys:  # through all of them: the time tells nothing about the keys
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def _follow(self) -> None:
        """Reads the file again if it has changed; looks once a second."""
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        state = self._stat()  # before reading: a change meanwhile is seen the next time
        if state == self._state:
            return
        self._state = state
        try:
            self._read()
        except KeysError as error:
            log.error("%s; the keys of before stay in force", error)
        else:
            log.info("%s has changed; the keys are now %s", self._path, ", ".join(key.name for key in self._keys))

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> None:
        """Raises KeysError, and changes nothing then."""
        entries = read_entries(self._path)
        allowances = {key.name: key.allowance for key in self._keys}  # a change gives nobody a fresh allowance
        keys = []
        for name, entry in entries.items():
            allowance = allowances.get(name) or Allowance(name, self._clock)
            allowance.limit(entry.rate, entry.burst, entry.concurrency)
            keys.append(Key(name, bytes.fromhex(entry.sha256), entry.scopes, allowance))
        self._keys = keys


def read_entries(path: Path) -> dict[str, Entry]:
    """The tables of a keys file, by name. Raises KeysError."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise KeysError(
            f"the keys file {path} cannot be read ({error.strerror}): correct api_keys_file, or make the file with "
            f"`python -m service.keys new NAME >> {path}`"
        ) from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested without end
        fault = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise KeysError(f"the keys file {path} is not TOML ({fault}): `python -m service.keys new` writes it") from None
    if not tables:
        raise KeysError(f"the keys file {path} holds no key: add one with `python -m service.keys new NAME >> {path}`")
    entries = {}
    for name, table in tables.items():
        try:
            check_name(name)
            entries[name] = Entry.model_validate(table)
        except ValidationError as error:
            raise KeysError(f"the keys file {path}: key {name}: {_explain(error)}") from None
        except ValueError as error:
            raise KeysError(f"the keys file {path}: {error}") from None
    if len({entry.sha256.lower() for entry in entries.values()}) < len(entries):
        raise KeysError(f"the keys file {path} has one key under two names: make a key of its own for each")
    return entries


def check_name(name: str) -> None:
    """Raises ValueError if no key may have this name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"key {name!a}: a name is 1 to 64 letters, digits, - and _, and begins with a letter or digit")
    if name.startswith(TOKEN_PREFIX):
        raise ValueError(f"a name may not begin with {TOKEN_PREFIX}: keys do, and this may be one")
    if name in (ANONYMOUS, INVALID):
        raise ValueError(f"key {name}: this name is taken, for requests without a valid key")


def sha256(token: str) -> bytes:
    """The digest of a key, as headers carry it: in Latin-1 (what no key holds, no key matches)."""
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()


def _explain(error: ValidationError) -> str:
    """The first fault, without the value: it may be a key that somebody took for its digest."""
    first = error.errors(include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return ": ".join([*map(str, first["loc"]), message])


def main(arguments: Sequence[str]) -> int:
    """Makes a key: its entry goes to standard output, the key itself to standard error."""
    parser = argparse.ArgumentParser(prog="python -m service.keys", description="API keys of the service.")
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser(
        "new",
        help="make a key",
        description="Makes a key. Its entry for the keys file goes to standard output (`>> keys.toml`), the key itself "
        "to standard error. The key is stored nowhere: give it to its holder now.",
    )
    new.add_argument("name", metavar="NAME", help="who uses it; appears in metrics and log")
    new.add_argument(
        "--scope", action="append", choices=get_args(Scope), help="what it allows; repeatable (default: classify)"
    )
    new.add_argument("--rate", type=float, help="requests per second (default: any)")
    new.add_argument("--burst", type=int, help="requests that may come at once (default: one second's worth)")
    new.add_argument("--concurrency", type=int, help="requests in the service at once (default: any)")
    options = parser.parse_args(arguments)
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    try:
        check_name(options.name)
        entry = Entry(
            sha256=sha256(token).hex(),
            scopes=tuple(dict.fromkeys(options.scope or ("classify",))),
            rate=options.rate,
            burst=options.burst,
            concurrency=options.concurrency,
        )
    except ValidationError as error:
        new.error(_explain(error))
    except ValueError as error:
        new.error(str(error))
    print(f"\n[{options.name}]")
    for field, value in entry.model_dump(exclude_none=True).items():
        print(f"{field} = {_toml(value)}")
    print(f"The key of {options.name}, shown only now:\n\n    {token}\n", file=sys.stderr)
    return 0


def _toml(value: str | float | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
