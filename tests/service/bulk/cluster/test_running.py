"""A run on a cluster, as far as it needs none."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from service.bulk.cluster.running import found
from service.bulk.local import read

pytestmark = pytest.mark.usefixtures("no_settings")


def test_engines_get_absolute_paths(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have other working folders than the command."""
    (tmp_path / "models").symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    for models_dir in (None, Path("models")):
        monkeypatch.setenv("RESNET_CACHE_DIR", "cache")
        given = found(read(models_dir, "cpu", None), None, None, None, None).given
        assert (given["models_dir"], given["cache_dir"]) == (tmp_path / "models", tmp_path / "cache")
