from __future__ import annotations

from model_export.studies.resnet1202 import run_end_to_end


def test_every_step_runs() -> None:
    """With 14 layers instead of 1202, which take minutes."""
    paragraph = run_end_to_end(14)
    assert paragraph.startswith("ResNet-14 (172,506 parameters) is built in ")
    assert "top-1 agreement 100 %" in paragraph
