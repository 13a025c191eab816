"""`GET /models` and what hangs below it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from service.api.models import info
from service.model_repository import Repository, Status, open_repository
from service.runtime.engine import EngineInfo
from service.runtime.machine import usable_cores
from service.runtime.model_card import RESERVED_NAMES, Gate, ImageSet, Training, Weights
from service.runtime.tuning import Measured, Tuned, Tuning
from service.settings import Settings


def repository(models_dir: Path) -> Repository:
    return open_repository(Settings(models_dir=models_dir))


def test_the_list(client: TestClient) -> None:
    found = client.get("/models").json()
    assert found["depths"] == [8, 18]
    assert found["default"] == "resnet18"
    assert [model["name"] for model in found["models"]] == ["resnet18", "resnet8-cifar"]
    assert found["unreadable"] == {}


def routes_of(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """All that an application answers, with those of its routers."""
    for route in routes:
        if isinstance(route, Route):
            yield route
        elif router := getattr(route, "original_router", None):
            yield from routes_of(router.routes)


def test_only_reserved_names_have_paths_that_are_not_the_models(client: TestClient) -> None:
    routes = list(routes_of(client.app.routes))  # type: ignore[attr-defined]
    fixed = [route for route in routes if "{" not in route.path]
    of_models = [route for route in routes if "{name}" in route.path and not route.path.startswith("/problems")]
    assert (len(fixed) > 10, len(of_models) > 10) == (True, True)
    hidden = {
        found.groupdict()[what]
        for each in fixed
        for other in of_models
        if each.methods and other.methods and each.methods & other.methods
        if (found := other.path_regex.fullmatch(each.path))
        for what in found.groupdict()
    }
    conf = (Path(__file__).parents[3] / "docker" / "nginx.conf").read_text()
    hidden |= set(re.findall(r"location ~ \(\^\|/\)(\w+)/\*\$ \{", conf))
    assert hidden == set(RESERVED_NAMES)


def test_one_model(client: TestClient) -> None:
    model = client.get("/models/resnet18").json()
    assert model in client.get("/models").json()["models"]
    tuning = model.pop("tuning")
    lanes = {candidate["lanes"] for candidate in tuning["candidates"]}
    assert lanes == {1, usable_cores()}
    assert model.pop("lanes") in lanes
    assert [candidate["chosen"] for candidate in tuning["candidates"]].index(True) == 0
    assert model == {
        "name": "resnet18",
        "references": ["resnet18"],
        "default": True,
        "depth": 18,
        "version": 1,
        "variant": "v1.5",
        "shortcut": "B",
        "parameters": 4000,
        "weights": {"source": "random, for tests", "sha256": None, "license": None},
        "training": None,
        "accuracy": None,
        "head": {"kind": "softmax", "rejection": None},
        "calibration": None,
        "classes": 1000,
        "input": {
            "height": 224,
            "width": 224,
            "channels": 3,
            "fit": "crop",
            "resize": 256,
            "fill": None,
            "interpolation": "bilinear",
            "window": None,
        },
        "state": "ready",
        "reason": None,
        "precision": "fp32",
        "gate": None,
        "provider": "cpu",
        "refused": {
            "cpu int8": "resnet18 1 has no int8 file: make one with "
            "`python -m model_export quantize resnet18@1 --data FOLDER --precision int8`"
        },
        "batch_sizes": [1, 2, 4, 8],
    }


def test_how_the_weights_were_trained_but_not_by_which_software(tiny_dir: Path) -> None:
    model = repository(tiny_dir).get("resnet8-cifar")
    training = Training(
        recipe={"epochs": 3, "ema": None, "milestones": [1, 2]},
        seed=7,
        train=ImageSet(name="pets (train)", images=90, sha256="0" * 64),
        val=ImageSet(name="pets (val)", images=10, sha256="1" * 64),
        started_from=Weights(source="other.pth", sha256="2" * 64, license="MIT"),
        device="cpu",
        precision="bf16",
        processes=2,
        commit="abc123",
        versions={"torch": "2.13.0"},
    )
    model.card = model.card.model_copy(update={"training": training})
    shown = info(model).model_dump(mode="json")["training"]
    assert shown == training.model_dump(mode="json", exclude={"commit", "versions"})


def test_one_that_was_tuned_tells_how(tiny_dir: Path) -> None:
    model = repository(tiny_dir).get("resnet8-cifar")
    slow = Measured(provider="cpu", precision="fp32", lanes=2, lone_ms=20.0, images_per_second={1: 50.0})
    fast = Measured(provider="cpu", precision="int8", lanes=1, lone_ms=10.0, images_per_second={1: 100.0, 2: 150.0})
    tuned = Tuned(Tuning(measured=(slow, fast)), remembered=True)
    model.status = Status("ready", info=EngineInfo("cpu", "fp32", batch_sizes=(1, 2), tuned=tuned))
    found = info(model).model_dump(mode="json")
    assert found["tuning"] == {
        "remembered": True,
        "candidates": [
            {
                "provider": "cpu",
                "precision": "int8",
                "lanes": 1,
                "lone_ms": 10.0,
                "images_per_second": {"1": 100.0, "2": 150.0},
                "chosen": True,
            },
            {
                "provider": "cpu",
                "precision": "fp32",
                "lanes": 2,
                "lone_ms": 20.0,
                "images_per_second": {"1": 50.0},
                "chosen": False,
            },
        ],
    }
    assert (found["lanes"], found["batch_sizes"], found["refused"]) == (1, [1, 2], {})


def test_one_of_int8_tells_what_it_was_found_to_lose(tiny_dir: Path) -> None:
    model = repository(tiny_dir).get("resnet8-cifar")
    gate = Gate(dataset="pictures", images=100, top1_agreement=0.99, accuracy_lost=0.002, limit=0.01)
    file = model.card.files["fp32"].model_copy(update={"gate": gate, "parity": None})
    model.card = model.card.model_copy(update={"files": model.card.files | {"int8": file}})
    model.status = Status("ready", info=EngineInfo("cpu", "fp32"))
    assert info(model).gate is None  # that of the file in use
    model.status = Status("ready", info=EngineInfo("cpu", "int8"))
    assert info(model).gate == gate


def test_reasons_name_no_paths(tiny_dir: Path) -> None:
    model = repository(tiny_dir).get("resnet8-cifar")
    file = model.path / "model.onnx"
    model.status = Status("failed", reason=f"{file} cannot be read")
    assert info(model).reason == "model.onnx cannot be read"
    engine = EngineInfo("cpu", "fp32", refused={"cuda": "/opt/lib/libcudnn.so.9: no such file"})
    model.status = Status("ready", info=engine)
    assert info(model).refused == {"cuda": "libcudnn.so.9: no such file"}


def test_one_that_is_not_loaded_tells_nothing_of_its_engine(tiny_dir: Path) -> None:
    found = info(repository(tiny_dir).get("resnet8-cifar"), default=True)
    assert (found.state, found.refused, found.batch_sizes) == ("loading", {}, [])
    assert found.precision is found.gate is found.provider is found.lanes is found.tuning is None


def test_labels(client: TestClient) -> None:
    labels = client.get("/models/resnet18/labels").json()
    assert len(labels) == 1000
    assert labels[1] == {"class_id": 1, "name": "goldfish", "wnid": "n01443537", "threshold": None}


def test_unknown(client: TestClient) -> None:
    for path in ("/models/x", "/models/x/labels"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-model"
        assert "resnet8-cifar" in response.json()["remedy"]
