"""The request of the benchmark, and its table from invented figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.open_inference import HEADER, Round, infer_request, interval, table
from service.admission import Memory, Permit
from service.api.open_inference.bodies import parse
from service.metrics import Metrics


def test_the_request_carries_the_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    body, headers = infer_request(pixels)
    with Permit(Memory(10**6, Metrics())) as permit:
        request = parse(body, headers[HEADER], "resnet18", "", (3, 2, 2), permit)
    (image,) = request.inputs
    assert (image.name, image.datatype, image.shape) == ("image", "UINT8", pixels.shape)
    assert image.raw == pixels.tobytes()
    assert [output.name for output in request.outputs] == ["probabilities"]


def test_the_table_has_the_difference() -> None:
    rounds = [Round(service=10.2, engine=10.0), Round(service=11.4, engine=11.0)]
    assert "| 10.800 | 10.500 | 0.300 | 0.300 | 0.200–0.400 |" in table(rounds)


def test_a_constant_has_no_spread() -> None:
    assert interval([0.25] * 5) == pytest.approx((0.25, 0.25))
