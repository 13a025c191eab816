"""Waits for conditions of which no event tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


async def async_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """As `until`, on an event loop."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0.002)


def until_ready(client: TestClient) -> None:
    """Waits until an application in this process has loaded its models."""
    until(lambda: client.get("/healthz/ready").status_code == 200, seconds=60)
