"""`service.client` against the real service, and a client that is generated from the OpenAPI document."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.drawings.pictures import picture
from service.client import AsyncClient, Client, DeadlineMissed, Refused
from service.client.streams import HELD
from tests.service.api.client import entry
from tests.service.client.scripted import Blocking
from tests.support.generated_client import Generated, generate
from tests.support.processes import Service
from tests.support.waiting import until

Either = Blocking | Generated

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def service(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tiny_dir, tmp_path_factory.mktemp("client") / "service.log", provider="cpu", max_batch=4) as started:
        yield started


@pytest.fixture(scope="module")
def generated(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("generated")
    generate(service.url, folder)
    with Generated(folder, service.url) as client:
        yield client


@pytest.fixture(params=["sync", "async", pytest.param("generated", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest, service: Service) -> Blocking | Generated:
    if request.param == "generated":
        made: Generated = request.getfixturevalue("generated")
        return made
    return Blocking(Client if request.param == "sync" else AsyncClient, service.url)


def test_one_image(client: Either, service: Service, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo)
    told = service.classify(photo, "?top_k=2").json()
    answer = client.classify(tmp_path / "photo.jpg", top_k=2)
    assert (answer.model, answer.depth, answer.version, answer.provider) == ("resnet8-cifar", 8, 1, "cpu")
    assert (answer.width, answer.height) == Image.open(io.BytesIO(photo)).size
    found = [(one.class_id, one.label, one.probability) for one in answer.predictions]
    assert found == [tuple(one.values()) for one in told["images"][0]["predictions"]]
    assert answer.milliseconds.keys() == {"decode", "queue", "inference", "total"}
    until(lambda: answer.request_id in service.log.read_text())


def test_what_is_asked_for_is_answered(client: Either, photo: bytes) -> None:
    assert client.classify(photo, depth=18).model == "resnet18"
    answer = client.classify(io.BytesIO(photo), labels=["class 2", 3])
    assert answer.restricted_to == ("class 2", "class 3")
    assert answer.mass is not None
    assert sum(one.probability for one in answer.predictions) == pytest.approx(1, abs=1e-5)


def test_refusals(client: Either, photo: bytes) -> None:
    with pytest.raises(Refused, match="The image is truncated") as raised:
        client.classify(photo[:1000])
    problem = raised.value.problem
    assert (problem.slug, problem.status, problem.members) == ("truncated-image", 422, {"received": 1000})
    assert problem.remedy
    assert problem.request_id == raised.value.request_id
    assert not raised.value.whatever_the_image
    for wrong in ({"model": "none"}, {"depth": 19}, {"top_k": 11}, {"labels": "no such class"}):
        with pytest.raises(Refused) as raised:
            client.classify(photo, **wrong)
        assert raised.value.whatever_the_image


def test_models_and_preview(client: Either, photo: bytes) -> None:
    models = {model.name: model for model in client.models()}
    assert models.keys() == {"resnet18", "resnet8-cifar"}
    model = models["resnet8-cifar"]
    assert (model.default, model.classes, model.state, model.provider) == (True, 10, "ready", "cpu")
    assert model.document["input"]["width"] == 32
    preview = client.preview(photo, depth=8)
    assert preview.model == "resnet8-cifar@1"
    assert 'format="JPEG"' in preview.decoded
    assert Image.open(io.BytesIO(preview.png)).size == (32, 32)
    assert client.ready()


def test_an_explanation(client: Either, photo: bytes) -> None:
    answer = client.classify(photo, top_k=3)
    found = client.explain(photo, top_k=3)
    assert (found.model, found.width, found.height) == (answer.model, answer.width, answer.height)
    assert [one.label for one in found.classes] == [one.label for one in answer.predictions]
    for one in found.classes:
        assert (one.map.dtype, one.map.ndim) == (np.float32, 2)
        assert one.map.mean() + one.bias == pytest.approx(one.logit, abs=1e-4)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= found.width
    assert 0 <= top < bottom <= found.height
    named = client.explain(photo, classes=["class 2", 7], depth=8)
    assert {one.class_id for one in named.classes} == {2, 7}


@pytest.mark.parametrize("kind", [Client, AsyncClient], ids=["sync", "async"])
def test_an_explanation_as_a_picture(service: Service, kind: type[Client] | type[AsyncClient], photo: bytes) -> None:
    client = Blocking(kind, service.url)
    best = client.classify(photo).best.class_id
    assert Image.open(io.BytesIO(client.explain_png(photo))).size == Image.open(io.BytesIO(photo)).size
    assert client.explain_png(photo) == client.explain_png(photo, label=best)
    assert client.explain_png(photo) != client.explain_png(photo, label=f"class {(best + 1) % 10}")


def test_embeddings(client: Either, service: Service, photo: bytes) -> None:
    images = [photo, picture(7, 3), photo]
    rows = client.embed(images)
    assert rows.dtype == np.float32
    told = service.post("/embed", files=[("file", image) for image in images]).json()
    np.testing.assert_allclose(rows, [entry["embedding"] for entry in told["images"]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(client.embed(images, normalize=True), axis=1), 1, atol=1e-5)
    assert rows.shape == (3, 64)
    assert client.embed([photo], model="resnet18").shape == (1, 512)


@pytest.mark.parametrize("kind", [Client, AsyncClient], ids=["sync", "async"])
def test_the_image_that_cannot_be_embedded(
    service: Service, kind: type[Client] | type[AsyncClient], photo: bytes
) -> None:
    with pytest.raises(Refused, match="The image is truncated"):
        Blocking(kind, service.url).embed([photo, photo[:1000]])


def test_a_stream_with_a_broken_image(client: Either, photo: bytes) -> None:
    outcomes = client.classify_many([photo, photo[:1000], photo], top_k=1)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), Refused, type(None)]
    assert outcomes[0].result().predictions == outcomes[2].result().predictions


@pytest.mark.slow
def test_keys_and_a_prefix(tiny_dir: Path, tmp_path: Path, start_service: Callable[..., Service], photo: bytes) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("secret", '"classify"'))
    service = start_service(tiny_dir, provider="cpu", max_batch=1, api_keys_file=keys, root_path="/resnet")
    for kind in (Client, AsyncClient):
        assert Blocking(kind, f"{service.url}/resnet", api_key="secret").classify(photo).model == "resnet8-cifar"
        with pytest.raises(Refused) as raised:
            Blocking(kind, service.url).classify(photo)
        assert raised.value.problem.type == "/resnet/problems/unauthorized"
        assert raised.value.whatever_the_image


@pytest.mark.slow
def test_a_deadline_that_the_service_keeps(
    tiny_dir: Path, held: Path, start_service: Callable[..., Service], photo: bytes
) -> None:
    """Whoever notices first, the service or the client."""
    service = start_service(tiny_dir, provider="cpu", max_batch=1, models="resnet8-cifar")
    held.touch()
    try:
        for kind in (Client, AsyncClient):
            with pytest.raises(DeadlineMissed):
                Blocking(kind, service.url).classify(photo, deadline=0.3)
    finally:
        held.unlink()
    assert Blocking(Client, service.url).classify(photo).best


@pytest.mark.slow
def test_a_thousand_images_in_bounded_memory(service: Service, photo: bytes) -> None:
    """Each image is its own copy: were all of them kept, they would take 100 MB."""
    images, concurrency = 1000, 4
    filling = bytes(100_000)  # after the end of the JPEG, where nothing looks
    made = yielded = most = 0

    def numbered() -> Iterator[bytes]:
        nonlocal made, most
        for number in range(images):
            made += 1
            most = max(most, made - yielded)
            yield b"broken" if number % 100 == 50 else photo + filling

    async def async_numbered() -> AsyncIterator[bytes]:
        for image in numbered():
            yield image

    async def run() -> int:
        nonlocal yielded
        errors = 0
        async with AsyncClient(service.url) as client:
            async for outcome in client.classify_many(async_numbered(), concurrency=concurrency, ordered=False):
                yielded += 1
                errors += outcome.error is not None
        return errors

    tracemalloc.start()
    try:
        with Client(service.url) as client:
            for number, outcome in enumerate(client.classify_many(numbered(), concurrency=concurrency)):
                yielded += 1
                assert outcome.number == number
                assert (outcome.error is not None) == (number % 100 == 50)
        assert (made, yielded) == (images, images)
        made = yielded = 0
        assert asyncio.run(run()) == images // 100
        assert (made, yielded) == (images, images)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert most <= HELD * concurrency + 1
