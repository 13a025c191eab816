"""What the image of the service starts, from the Dockerfile."""

from __future__ import annotations

import json
import re
from pathlib import Path

from service.settings import PREFIX

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


def stage() -> str:
    """The instructions that `service` and `service-cuda` share."""
    (found,) = re.findall(r"^FROM runtime AS serving\n(.*?)(?=^FROM )", DOCKERFILE.read_text(), re.M | re.S)
    return str(found)


def environment() -> dict[str, str]:
    """The settings of the service."""
    return dict(re.findall(rf"({PREFIX}\w+)=(\S+)", stage()))


def entry_point() -> list[str]:
    (command,) = re.findall(r"^ENTRYPOINT (.+)$", stage(), re.M)
    parsed: list[str] = json.loads(command)
    return parsed
