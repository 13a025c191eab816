"""The stages of a run on a cluster, called as Ray calls them."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")

from service.bulk.cluster import places, stages  # noqa: E402
from service.bulk.cluster.stages import Decoding, Engine  # noqa: E402
from service.bulk.done import Done  # noqa: E402
from service.bulk.inputs import File, Inputs  # noqa: E402
from service.bulk.local import opened, read  # noqa: E402
from service.bulk.stream import Unusable  # noqa: E402
from service.runtime.model_folder import read_card  # noqa: E402
from tests.support.mortal import FATAL, Mortal  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_settings")


def decoding(models_dir: Path, **other: Any) -> Decoding:
    card = read_card(models_dir / "resnet8-cifar" / "1")
    limits = {"max_image_bytes": 10**7, "max_pixels": 10**8, "scaled": True, "max_memory": 10**9, **other}
    return Decoding(card.preprocessing, None, **limits)


def block(*paths: Path) -> Any:
    (found,) = places.blocks(Inputs([str(path) for path in paths], lambda: None, 10**7), [], None, Done(()))  # type: ignore[arg-type, return-value]
    return found


@pytest.fixture
def images(tmp_path: Path, photo: bytes) -> list[Path]:
    """A photo, one that is cut off, and a file that is not there."""
    paths = [tmp_path / name for name in ("a.jpg", "cut.jpg", "nothing.jpg")]
    paths[0].write_bytes(photo)
    paths[1].write_bytes(photo[:3000])
    return paths


async def answers(models_dir: Path, images: list[bytes]) -> list[Any]:
    settings = read(models_dir, "cpu", "fp32").model_copy(update={"max_batch": 2})
    async with opened(settings, None, None, None, 2) as classifier:
        return [await classifier.classify(image) for image in images]


def test_rows_are_those_of_one_process(tiny_dir: Path, images: list[Path]) -> None:
    given = {"models_dir": tiny_dir, "provider": "cpu", "precision": "fp32", "max_batch": 2}
    engine = Engine(given, 1, "resnet8-cifar@1", None, 2, decoding(tiny_dir).preprocessing.shape)
    (decoded,) = decoding(tiny_dir)(block(*images))
    found = engine(decoded).to_pylist()
    assert [row["name"] for row in found] == [str(path) for path in images]
    expected = asyncio.run(answers(tiny_dir, [path.read_bytes() for path in images[:2]]))
    assert [json.loads(row["entry"]) for row in found[:2]] == [answer.entry for answer in expected]
    assert json.loads(found[2]["entry"])["error"]["type"] == "/problems/file-not-found"
    assert {(row["model"], row["version"]) for row in found} == {("resnet8-cifar", 1)}


def test_limits_hold_where_images_are_decoded(tiny_dir: Path, images: list[Path]) -> None:
    slugs = []
    for limit in ("max_image_bytes", "max_pixels", "max_memory"):
        (decoded,) = decoding(tiny_dir, **{limit: 100})(block(images[0]))
        slugs.append(json.loads(decoded["problem"][0].as_py())["error"]["type"])
    assert slugs == ["/problems/image-too-large", "/problems/too-many-pixels", "/problems/too-much-memory"]


def test_one_image_is_decoded_at_a_time(tiny_dir: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The task has one CPU, and the memory of one image."""
    readers, decoders = [], []

    def recording(threads: list[int], function: Any) -> Any:
        return lambda *arguments, **options: (threads.append(threading.get_ident()), function(*arguments, **options))[1]

    monkeypatch.setattr(File, "read", recording(readers, File.read))
    monkeypatch.setattr(stages, "decode", recording(decoders, stages.decode))
    (decoded,) = decoding(tiny_dir)(block(*images[:1] * 10))
    assert decoded.num_rows == len(readers) == len(decoders) == 10
    assert set(decoders) == {threading.get_ident()}
    assert threading.get_ident() not in readers  # storage on a network is slow


@pytest.mark.slow  # starts two processes
def test_alone_an_image_that_kills_the_process_has_a_problem(tiny_dir: Path, images: list[Path]) -> None:
    """The others have their pixels, or their own problems."""
    fatal = images[0].with_name("fatal.jpg")
    fatal.write_bytes(FATAL)
    (expected,) = decoding(tiny_dir)(block(images[0], *images))
    (found,) = Mortal(*decoding(tiny_dir))(block(images[0], fatal, *images), alone=True)
    assert found.take([0, 2, 3, 4]) == expected
    assert json.loads(found["problem"][1].as_py())["error"]["type"] == "/problems/decoding-killed"


def test_a_machine_that_cannot_load_the_model(tiny_dir: Path) -> None:
    """Said by the first call: what an actor raises while it starts, Ray prints on standard output."""
    engine = Engine({"models_dir": tiny_dir}, 1, "resnet50", None, None, (3, 32, 32))
    (decoded,) = decoding(tiny_dir)(block(tiny_dir / "nothing.jpg"))
    with pytest.raises(Unusable, match="there is no model resnet50"):
        engine(decoded)
