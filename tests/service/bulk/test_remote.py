"""Classifying on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.bulk.local import opened
from service.bulk.remote import connected
from service.bulk.rows import Answer
from service.bulk.stream import Ended, Unusable
from tests.service.bulk import test_local
from tests.support.processes import Service, free_port

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def service(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tiny_dir, tmp_path_factory.mktemp("service") / "log", provider="cpu", max_batch=2) as started:
        yield started


def answers(
    url: str,
    *images: bytes,
    api_key_file: Path | None = None,
    ca_file: Path | None = None,
    model: str | None = None,
    depth: int | None = None,
    labels: str | None = None,
    top_k: int | None = None,
) -> list[Answer]:
    async def run() -> list[Answer]:
        async with connected(
            url,
            api_key_file=api_key_file,
            ca_file=ca_file,
            at_once=4,
            model=model,
            depth=depth,
            labels=labels,
            top_k=top_k,
        ) as classifier:
            return [await classifier.classify(image) for image in images]

    return asyncio.run(run())


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("labels", [None, "class 3, 5"])
def test_the_answers_are_those_of_this_process(
    labels: str | None, service: Service, tiny_dir: Path, photo: bytes
) -> None:
    good, broken = answers(service.url, photo, photo[:3000], labels=labels, top_k=2)
    assert good == test_local.answer(tiny_dir, photo, labels=labels, top_k=2)
    assert broken == test_local.answer(tiny_dir, photo[:3000], labels=labels, top_k=2)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "resnet8-cifar"),
        ({"model": "resnet18"}, "resnet18"),
        ({"model": "resnet18@1"}, "resnet18"),
        ({"depth": 18}, "resnet18"),
    ],
)
def test_models_are_meant_as_in_requests(
    wanted: dict[str, object], expected: str, service: Service, photo: bytes
) -> None:
    (found,) = answers(service.url, photo, **wanted)  # type: ignore[arg-type]
    assert (found.model, found.version) == (expected, 1)


def test_an_overlay_is_that_of_this_process(service: Service, tiny_dir: Path, photo: bytes, no_settings: None) -> None:
    async def remote() -> Answer:
        wanted = {"model": None, "depth": None, "labels": None, "top_k": None}
        async with connected(
            service.url, api_key_file=None, ca_file=None, at_once=4, explains=True, **wanted
        ) as classifier:
            return await classifier.classify(photo)

    async def local() -> Answer:
        async with opened(test_local.settings(tiny_dir), None, None, None, None, explains=True) as classifier:
            return await classifier.classify(photo)

    assert asyncio.run(remote()) == asyncio.run(local())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"model": "resnet50"}, r"the server has no model resnet50: choose one with --model: resnet18 \(depth 18\), "),
        ({"depth": 34}, "the server has no model of depth 34"),
        ({"api_key_file": Path("/none")}, "/none cannot be read: No such file"),
    ],
)
def test_what_is_not_there_is_named(wanted: dict[str, object], message: str, service: Service, photo: bytes) -> None:
    with pytest.raises(Unusable, match=message):
        answers(service.url, photo, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:{closed}", "check the address, and whether the server runs"),
        ("{url}/docs", "give the address of a server, such as|check the address"),
        ("127.0.0.1", "give one like http://127.0.0.1:8000"),
    ],
)
def test_an_address_without_a_server(address: str, message: str, service: Service, photo: bytes) -> None:
    with pytest.raises(Unusable, match=message):
        answers(address.format(url=service.url, closed=free_port()), photo)


def test_certificates_that_are_not_there_are_named(photo: bytes) -> None:
    with pytest.raises(Unusable, match="/none cannot be read: No such file"):
        answers("https://127.0.0.1:1", photo, ca_file=Path("/none"))


def test_what_every_image_would_be_refused_for_ends_it(service: Service, photo: bytes) -> None:
    with pytest.raises(Ended, match="resnet8-cifar has no class 'cow'"):
        answers(service.url, photo, labels="cow")


@pytest.mark.slow
def test_a_server_that_is_gone_ends_it(
    start_service: Callable[..., Service], tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.bulk.remote.RETRIES", 1)
    started = start_service(tiny_dir, provider="cpu", max_batch=2)

    async def run() -> None:
        wanted = {"model": None, "depth": None, "labels": None, "top_k": None}
        async with connected(started.url, api_key_file=None, ca_file=None, at_once=4, **wanted) as classifier:
            await classifier.classify(photo)
            started.stop()
            with pytest.raises(Ended, match="go on with --resume once the server answers again"):
                await classifier.classify(photo)

    asyncio.run(run())
