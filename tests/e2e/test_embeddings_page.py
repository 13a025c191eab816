"""The example of docs/embeddings.md against a real service."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_export.drawings.pictures import CLASSES, picture
from tests.support.processes import Service

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parent.parent.parent / "docs" / "embeddings.md"
QUERY = 4  # the photograph that is also the query


@pytest.mark.slow
def test_the_example_finds_the_same_image_first(
    models_dir: Path, tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    service = start_service(models_dir)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3 * len(CLASSES)):  # more than one request may hold
        (photos / f"{i:02}.jpg").write_bytes(picture(7, i))
    (tmp_path / "query.jpg").write_bytes(picture(7, QUERY))

    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-c", program.replace("http://127.0.0.1:8000", service.url)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 5
    assert found[0] == ["1.000", f"photos/{QUERY:02}.jpg"]
    cosines = [float(cosine) for cosine, _ in found]
    assert cosines == sorted(cosines, reverse=True)
