"""Counts the steps of code: what it costs, whatever the machine does beside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from service.runtime.faults import ImageFault


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs in `service.runtime.images`."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if "runtime/images" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except ImageFault:
        pass
    finally:
        sys.settrace(before)
    return count
