"""The contact sheet."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.drawings.__main__ import contact_sheet, main
from model_export.drawings.pictures import STANDARD, STYLES


def test_the_sheet_shows_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "drawings.png"
    monkeypatch.setattr(sys, "argv", ["drawings", str(out)])
    main()
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 600


def test_a_sheet_in_another_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "drawings.png"
    monkeypatch.setattr(sys, "argv", ["drawings", str(out), "--difficulty", "easy"])
    main()
    expected = contact_sheet(STYLES["easy"])
    with Image.open(out) as sheet:
        assert np.abs(np.asarray(sheet.convert("RGB"), int) - np.asarray(expected, int)).mean() < 8
    assert expected != contact_sheet(STANDARD)
