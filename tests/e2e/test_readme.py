"""The README's commands are run, and must give what the README shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    language: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    ]


def run(block: Block, url: str, folder: Path) -> str:
    text = block.text.replace(ADDRESS, url)
    command = ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def shape(value: object) -> object:
    """The structure of a JSON value, with what must be equal on every machine: names, sizes, labels, problems."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key not in ("probability", "class_id")}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return value


def best_only(answer: dict[str, object]) -> dict[str, object]:
    """Which class comes second may differ from one training to another."""
    for image in answer["images"]:  # type: ignore[attr-defined]
        for prediction in image.get("predictions", [])[1:]:
            prediction["label"] = "(another)"
    return answer


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to the commands, so that nothing is left in the real one."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


def test_the_examples_give_what_is_shown(
    demo_models: Path, checkout: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(demo_models)
    compared = 0
    found = blocks()
    for block, shown in zip(found, [*found[1:], Block("", "")], strict=True):
        if block.language not in ("sh", "python") or block.text.startswith("make "):
            continue
        output = run(block, service.url, checkout)
        if shown.language == "json":
            assert shape(best_only(json.loads(output))) == shape(best_only(json.loads(shown.text))), block.text
            compared += 1
        elif shown.language == "text":
            number = r"\d+(\.\d+)?"
            assert re.sub(number, "0", output) == re.sub(number, "0", shown.text), block.text
            compared += 1
        else:
            assert json.loads(output)["default"] == "resnet18-demo"
    assert compared == 4


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    assert {"run", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
