"""Batch sizes, lanes and sessions of a model on its share of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.runtime.choices import Precision, ProviderName
from service.runtime.engine import DynamicEngine, EngineInfo
from service.runtime.model_folder import read_card
from service.runtime.placement import GPU_LANES, GPU_SIZES, LARGEST, Placement, powers_of_two
from service.runtime.static_engine import StaticEngine
from tests.service.runtime.engines import Opened


@pytest.fixture
def placement(quantised: Path) -> Placement:
    return Placement(quantised, read_card(quantised), threads=4, lanes=4, max_batch=None, gpu=0)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (9, (1, 2, 4, 8, 9)),
        (48, (1, 2, 4, 8, 16, 32, 48)),
        (64, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_powers_of_two(largest: int, sizes: tuple[int, ...]) -> None:
    assert powers_of_two(largest) == sizes


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize(
    ("max_batch", "measured", "default"),
    [
        (None, (1, 2, 4, 8, 16), (1,)),
        (1, (1,), (1,)),
        (3, (1, 3), (1, 2, 3)),
        (4, (1, 4), (1, 2, 4)),
        (6, (1, 6), (1, 2, 4, 6)),
    ],
)
def test_batch_sizes_on_a_cpu(
    placement: Placement,
    provider: ProviderName,
    max_batch: int | None,
    measured: tuple[int, ...],
    default: tuple[int, ...],
) -> None:
    assert LARGEST == 16
    placement = placement._replace(max_batch=max_batch)
    assert placement.sizes_to_measure(provider) == measured
    assert placement.default_sizes(provider) == default


@pytest.mark.parametrize(
    ("max_batch", "measured", "default"),
    [
        (None, GPU_SIZES, GPU_SIZES),
        (1, (1,), (1,)),
        (5, (1, 5), (1, 5)),
        (8, (1, 8), (1, 8)),
        (20, (1, 20), (1, 8, 20)),
        (64, (1, 64), GPU_SIZES),
    ],
)
def test_batch_sizes_on_a_gpu(
    placement: Placement, max_batch: int | None, measured: tuple[int, ...], default: tuple[int, ...]
) -> None:
    assert GPU_SIZES == (1, 8, 32, 64)
    placement = placement._replace(max_batch=max_batch)
    assert placement.sizes_to_measure("cuda") == measured
    assert placement.default_sizes("cuda") == default


def test_a_gpu_has_use_for_two_lanes_only(placement: Placement) -> None:
    assert GPU_LANES == 2
    assert [placement.most_lanes(name) for name in ("cuda", "openvino", "cpu")] == [2, 4, 4]
    assert placement._replace(lanes=1).most_lanes("cuda") == 1


@pytest.mark.machine
@pytest.mark.parametrize(
    ("provider", "precision", "lanes", "lanes_of_sessions"),
    [
        ("cpu", "fp32", 4, [1, 4]),
        ("cpu", "int8", 2, [1, 2]),
        ("cpu", "fp32", 1, [1]),
        ("openvino", "fp32", 4, [1, 4]),
        ("openvino", "bf16", 4, [1, 4]),
        ("openvino", "int8", 2, [1, 2]),
        ("openvino", "int8", 1, [1]),
    ],
)
def test_several_lanes_on_a_cpu_have_a_wide_and_a_narrow_session(
    placement: Placement,
    all_providers: Callable[..., Opened],
    provider: ProviderName,
    precision: Precision,
    lanes: int,
    lanes_of_sessions: list[int],
) -> None:
    opened = all_providers()
    info = EngineInfo(provider, precision, lanes, batch_sizes=(1, 2))
    engine = placement.open(info)
    assert isinstance(engine, DynamicEngine)
    assert engine.info == info
    assert opened.cores == [(4, number) for number in lanes_of_sessions]


@pytest.mark.machine
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_gpu_has_a_session_for_each_batch_size(
    placement: Placement, all_providers: Callable[..., Opened], lanes: int
) -> None:
    opened = all_providers()
    info = EngineInfo("cuda", "fp32", lanes, batch_sizes=(1, 8))
    engine = placement._replace(gpu=3).open(info)
    assert isinstance(engine, StaticEngine)
    assert engine.info == info
    assert opened.calls == []  # warming up opens them
    engine.warm_up()
    assert opened.batches == [(1, 3), (8, 3)]
    assert opened.cores == [(4, 1), (4, 1)]
