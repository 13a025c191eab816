"""What Ray reads from the environment when it is imported. Imports nothing of Ray's."""

from __future__ import annotations

import os
from pathlib import Path


def prepare(address: str) -> None:
    """Sets variables for a run on the cluster at this address: `auto`, `local`, or HOST:PORT."""
    # A call after `ray.shutdown` fails: Ray would start a new cluster for it, on this machine.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # `ray start --head` demands a token where it finds one, and `--ray local` leaves one behind. Ray presents it by
    # itself to `auto` and `local` only.
    if ":" in address and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return Path("~/.ray/auth_token").expanduser().exists()
