"""What the fuzzers found, again; and that they run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.decoding import decode_any
from tests.fuzz.forms import SEEDS, parse_any

TARGETS = {"decoding": decode_any, "forms": parse_any}
FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_stays_fixed(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_of_forms(seed: bytes) -> None:
    parse_any(seed)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (the extra `fuzz`)")
@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_runs(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.fuzz.{target}", "--bodies", "1000", "--found", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Done 1000 runs" in done.stderr
    assert not list(tmp_path.iterdir())
