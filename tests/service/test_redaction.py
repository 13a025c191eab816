"""What strangers read of reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.redaction import redacted

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            f"/srv/models/net/1/model.onnx has SHA-256 {DIGEST}, its card says {DIGEST}: publish the model again",
            "model.onnx has SHA-256 …, its card says …: publish the model again",
        ),
        ("Load model from /srv/a/b.onnx failed:/srv/a/b.onnx", "Load model from b.onnx failed:b.onnx"),
        ("'/usr/lib/libcuda.so.1': undefined symbol (/opt/x/y)", "'libcuda.so.1': undefined symbol (y)"),
        ("see file:///etc/passwd and ~/.cache/x", "see file:passwd and x"),
        ("/srv", "srv"),
        # what stays
        ("net 1 has no int8 file: make one with `python -m x --a b`", ...),
        ("72 images/s, 1/2, and/or, a / b; see https://onnxruntime.ai/docs/x/y.html", ...),
        ("libcudnn.so.9: cannot open shared object file", ...),
    ],
)
def test_paths_and_digests_go(reason: str, shown: str | None) -> None:
    assert redacted(reason) == (reason if shown is ... else shown)


def test_known_folders_may_have_blanks(tmp_path: Path) -> None:
    folder = tmp_path / "my models: all"
    folder.mkdir()
    link = tmp_path / "a link"
    link.symlink_to(folder)
    assert redacted(f"{folder}/net/1/card.json cannot be read", folder) == "net/1/card.json cannot be read"
    assert redacted(f"{folder}/card.json cannot be read", link) == "card.json cannot be read"
