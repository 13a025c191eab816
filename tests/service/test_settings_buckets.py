from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from service.settings import Settings
from service.settings_buckets import MOST, SECONDS, Buckets
from service.settings_sources import read_settings

CHECKED: TypeAdapter[tuple[float, ...]] = TypeAdapter(Buckets)


def test_the_default_has_the_edges_of_usual_objectives() -> None:
    assert {0.01, 0.025, 0.05, 0.1, 0.25, 0.5} <= set(SECONDS)
    assert CHECKED.validate_python(SECONDS) == SECONDS
    assert Settings().metrics_buckets == SECONDS


def test_edges_are_numbers_with_commas_between() -> None:
    assert read_settings(["--metrics-buckets", "0.01, 0.1,1"]).metrics_buckets == (0.01, 0.1, 1.0)


@pytest.mark.parametrize(
    "edges",
    [(), (0.0, 1.0), (-1.0,), (1.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"),), tuple(range(1, MOST + 2))],
)
def test_what_is_not_ascending_is_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="each larger than the one before"):
        CHECKED.validate_python(edges)
