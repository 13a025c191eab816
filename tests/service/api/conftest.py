"""The whole application in this process, over models that compute next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.support.waiting import until_ready

LIMITS = {"max_images": 3, "max_image_bytes": 300_000, "max_request_bytes": 700_000, "max_pixels": 1_000_000}


@pytest.fixture(scope="session")
def client(tiny_dir: Path) -> Iterator[TestClient]:
    """With small limits; the default model is `resnet18`."""
    settings = Settings.model_validate(
        {"models_dir": tiny_dir, "provider": "cpu", "max_batch": 8, "default_model": "resnet18", **LIMITS}
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        until_ready(client)
        yield client
