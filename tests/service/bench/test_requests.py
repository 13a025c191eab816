"""Requests, and the names of refusals."""

from __future__ import annotations

import math

import pytest

from service.bench.requests import percentile, post, refusal, tls


def test_percentiles_are_measured_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 1) == 7
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b'{"type": "/prefix/problems/overloaded"}', "503 overloaded"),
        (502, b"<html>", "502"),
        (500, b"[]", "500"),
        (0, b"", "no answer"),
    ],
)
def test_refusals_are_named_by_their_problem(status: int, body: bytes, expected: str) -> None:
    assert refusal(status, body) == expected


@pytest.mark.parametrize(
    ("url", "address", "encrypted"),
    [
        ("http://a", ("a", 80), False),
        ("https://a", ("a", 443), True),
        ("https://a:8443/x", ("a", 8443), True),
    ],
)
def test_addresses(url: str, address: tuple[str, int], encrypted: bool) -> None:
    assert post(url, b"", "image/jpeg")[0] == address
    assert (tls(url) is not None) == encrypted
