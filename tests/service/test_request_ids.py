from __future__ import annotations

import asyncio
import re

import pytest

from service import request_ids


@pytest.mark.parametrize("wanted", ["order-66", "A.b_c-9", "x" * 64])
def test_a_harmless_id_is_taken(wanted: str) -> None:
    async def scenario() -> str:
        request_ids.begin(wanted)
        return request_ids.current()

    assert asyncio.run(scenario()) == wanted


@pytest.mark.parametrize("wanted", [None, "", "x" * 65, "a b", 'a"b', "a\nb", "a\n", "\u00e9", "a,b", "a/b"])
def test_any_other_is_replaced(wanted: str | None) -> None:
    async def scenario() -> str:
        return request_ids.begin(wanted)

    assert re.fullmatch("[0-9a-f]{32}", asyncio.run(scenario()))


def test_each_task_has_its_own() -> None:
    async def request(wanted: str) -> str:
        request_ids.begin(wanted)
        await asyncio.sleep(0)
        return request_ids.current()

    async def scenario() -> list[str]:
        found = await asyncio.gather(request("one"), request("two"), request("three"))
        return [*found, request_ids.current()]

    assert asyncio.run(scenario()) == ["one", "two", "three", ""]


def test_no_two_are_the_same() -> None:
    assert len({request_ids.new_id() for _ in range(1000)}) == 1000
