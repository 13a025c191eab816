"""Classifying in this process, without HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from service.bulk.local import opened, read
from service.bulk.rows import Answer
from service.bulk.stream import Ended, Unusable
from service.local_runner import EngineBroken
from service.settings import Settings
from tests.service.served import Served
from tests.support.folders import copied

pytestmark = pytest.mark.usefixtures("no_settings")


def settings(models_dir: Path) -> Settings:
    return read(models_dir, "cpu", "fp32").model_copy(update={"max_batch": 2})


def answer(
    models_dir: Path,
    image: bytes,
    model: str | None = None,
    depth: int | None = None,
    labels: str | None = None,
    top_k: int | None = None,
) -> Answer:
    async def run() -> Answer:
        async with opened(settings(models_dir), model, depth, labels, top_k) as classifier:
            return await classifier.classify(image)

    return asyncio.run(run())


def test_the_answer_is_the_services(tiny_dir: Path, photo: bytes) -> None:
    served = Served(tiny_dir, models=("resnet8-cifar",)).load()
    (expected,) = served.run(served.classify("resnet8-cifar", [photo], 3))
    served.close()
    found = answer(tiny_dir, photo, top_k=3)
    assert (found.model, found.version) == ("resnet8-cifar", 1)  # the default
    assert [one["class_id"] for one in found.entry["predictions"]] == expected.top.class_ids.tolist()  # type: ignore[union-attr]
    assert json.loads(json.dumps(found.entry)) == found.entry


@pytest.mark.parametrize(
    ("model", "depth", "expected"),
    [("resnet18", None, "resnet18"), ("resnet18@1", None, "resnet18"), (None, 18, "resnet18")],
)
def test_models_are_meant_as_in_requests(
    model: str | None, depth: int | None, expected: str, tiny_dir: Path, photo: bytes
) -> None:
    assert answer(tiny_dir, photo, model, depth).model == expected


def test_labels_restrict_the_answer(tiny_dir: Path, photo: bytes) -> None:
    entry = answer(tiny_dir, photo, labels="class 3,5").entry
    assert sorted(one["class_id"] for one in entry["predictions"]) == [3, 5]
    assert 0 < entry["mass"] < 1


def test_a_broken_image_is_an_answer(tiny_dir: Path, photo: bytes) -> None:
    assert answer(tiny_dir, photo[:3000]).entry["error"]["type"] == "/problems/truncated-image"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"model": "resnet50"}, "there is no model resnet50: choose from resnet18, resnet8-cifar"),
        ({"model": "resnet18@7"}, "resnet18 has no version 7"),
        ({"depth": 34}, "depth 34"),
        ({"labels": "cow"}, "resnet8-cifar has no class 'cow'"),
        ({"top_k": 11}, "give a whole number from 1 to 10"),
    ],
)
def test_what_is_not_there_is_named(wanted: dict[str, object], message: str, tiny_dir: Path, photo: bytes) -> None:
    with pytest.raises(Unusable, match=message):
        answer(tiny_dir, photo, **wanted)  # type: ignore[arg-type]


def test_settings_are_those_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_MODELS_DIR", "/somewhere")
    assert read(None, None, None).models_dir == Path("/somewhere")
    assert read(tmp_path, "cpu", "fp32").models_dir == tmp_path
    monkeypatch.setenv("RESNET_MODELS", "a")
    monkeypatch.setenv("RESNET_MODELDIR", "b")
    with pytest.raises(Unusable, match="RESNET_MODELDIR is not a setting: did you mean RESNET_MODELS_DIR"):
        read(None, None, None)


def test_an_overlay_is_a_picture_of_the_whole_image(tiny_dir: Path, photo: bytes) -> None:
    async def run() -> tuple[Answer, Answer]:
        async with opened(settings(tiny_dir), None, None, None, None, explains=True) as classifier:
            return await classifier.classify(photo), await classifier.classify(photo[:3000])

    good, broken = asyncio.run(run())
    assert good.overlay is not None
    with Image.open(io.BytesIO(good.overlay)) as picture:
        assert (picture.format, picture.size) == ("PNG", (good.entry["width"], good.entry["height"]))
    assert broken.overlay is None
    assert answer(tiny_dir, photo).overlay is None


def test_a_version_that_cannot_be_explained_is_named(tiny_dir: Path, tmp_path: Path) -> None:
    folder = copied(tiny_dir / "resnet18" / "1", tmp_path / "resnet18" / "1")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "classifier_sha256": None}))

    async def run() -> None:
        async with opened(settings(tmp_path), None, None, None, None, explains=True):
            pass

    with pytest.raises(Unusable, match="the answers of resnet18 cannot be explained: it was published without"):
        asyncio.run(run())


def test_a_broken_engine_ends_it(tiny_dir: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened(settings(tiny_dir), None, None, None, None) as classifier:

            def fail(*given: object, **more: object) -> None:
                raise RuntimeError("the device is gone")

            monkeypatch.setattr("service.local_runner.LocalRunner._answers", fail)
            assert (await classifier.classify(photo)).entry["error"]["type"] == "/problems/computation-failed"
            classifier._fatal.append(EngineBroken("it has failed 3 times"))  # type: ignore[attr-defined]
            with pytest.raises(Ended, match="it has failed 3 times: start again with --resume"):
                await classifier.classify(photo)

    asyncio.run(run())


def test_more_images_are_in_flight_than_batches_take(tiny_dir: Path) -> None:
    async def run() -> int:
        async with opened(settings(tiny_dir), None, None, None, None) as classifier:
            return classifier.at_once

    assert asyncio.run(run()) >= 32
