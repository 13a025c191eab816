from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from service.client import AsyncClient, Client
from tests.service.client.scripted import Blocking


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Callable[..., Blocking]:
    """Makes a client of an address: `connect(server.url, retries=1)`."""
    return partial(Blocking, request.param)
