"""What is answered for an image: by the heads of models, and restricted to some classes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.api.schema import Classification
from service.app import create_app
from service.runtime.engine import DynamicEngine
from service.runtime.head import Head
from service.runtime.images.decoding import decode
from service.runtime.measured import Calibration, Rejection
from service.runtime.model_card import Architecture, Label, ModelCard
from service.runtime.model_folder import MODEL_FILES, read_card
from service.runtime.providers import open_session
from service.runtime.scores import sigmoid, softmax
from service.settings import Settings
from tests.service.api.client import as_file, form, problem
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until_ready

CLASSES = 6
PLAIN, MULTI, REJECTING, SINGLE = "resnet8-cifar", "resnet14-cifar", "resnet20-cifar", "resnet26-cifar"


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> Path:
    """Models with each kind of head. The thresholds divide the classes and the images of the tests."""
    root = tmp_path_factory.mktemp("heads")

    def publish(depth: int, classes: int = CLASSES, head: Head = Head(), **changes: object) -> None:  # noqa: B008
        architecture = Architecture(depth=depth, family="cifar", shortcut="A", num_classes=classes)
        folder = publish_tiny(architecture, root, seed=depth, head=head)
        card = read_card(folder).model_copy(update=changes)
        (folder / "card.json").write_text(card.to_json())

    names = ("cat", "dog, small", "café", "3", "crane", "crane")
    publish(8, labels=tuple(Label(name=name) for name in names))
    publish(14, head=Head(kind="sigmoid", thresholds=(0.1, 0.9, 0.3, 0.7, 0.5, 0.0)))
    rejection = Rejection(threshold=0.5, coverage=0.9, error=0.01, error_without=0.05, dataset="pictures", images=100)
    calibration = Calibration(temperature=0.7, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    publish(20, head=Head(rejection=rejection), calibration=calibration)
    publish(26, classes=1, head=Head(kind="sigmoid"))
    return root


@pytest.fixture(scope="module")
def served(heads_dir: Path) -> Iterator[TestClient]:
    settings = Settings.model_validate(
        {"models_dir": heads_dir, "provider": "cpu", "max_batch": 8, "default_model": PLAIN}
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        until_ready(client)
        yield client


def expected(heads_dir: Path, name: str, image: bytes) -> tuple[ModelCard, np.ndarray]:
    """The card, and the probabilities of all classes: float32 (classes,)."""
    folder = heads_dir / name / "1"
    card = read_card(folder)
    engine = DynamicEngine.of(open_session(folder / MODEL_FILES["fp32"], "cpu", threads=1))
    logits = engine.infer(decode(image, card.preprocessing, max_pixels=10**9).pixels[None])["logits"]
    if card.head.kind == "sigmoid":
        return card, sigmoid(logits)[0]
    return card, softmax(logits, card.calibration.temperature if card.calibration else 1.0)[0]


def asked(client: TestClient, image: bytes, **parameters: object) -> dict[str, Any]:
    response = client.post("/classify", params=parameters, files=form(image))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    Classification.model_validate(answer)
    return answer


def pictures() -> list[bytes]:
    """One colour each: all that the models see."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (24, 3), dtype=np.uint8)
    return [_png(Image.new("RGB", (40, 40), tuple(colour.tolist()))) for colour in colours]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_plain_model_answers_as_ever(served: TestClient, photo: bytes) -> None:
    answer = asked(served, photo)
    assert set(answer) == {"model", "depth", "version", "provider", "precision", "images"}
    assert set(answer["images"][0]) == {"file", "width", "height", "predictions"}


def test_a_multi_label_model_answers_every_class_from_its_threshold_on(served: TestClient, heads_dir: Path) -> None:
    sizes = set()
    for picture in pictures():
        card, probabilities = expected(heads_dir, MULTI, picture)
        (image,) = asked(served, picture, model=MULTI, top_k=2)["images"]
        best = np.argsort(-probabilities, kind="stable").tolist()
        assert [one["class_id"] for one in image["predictions"]] == best[:2]
        present = [i for i in best if probabilities[i] >= card.head.thresholds_of(CLASSES)[i]]
        assert [one["class_id"] for one in image["labels"]] == present
        for one in image["labels"]:
            assert one["label"] == card.labels[one["class_id"]].name
            assert one["probability"] == pytest.approx(probabilities[one["class_id"]], abs=2e-6)
        sizes.add(len(present))
    assert len(sizes) > 1  # the pictures differ


def test_a_single_logit(served: TestClient, heads_dir: Path) -> None:
    answers = set()
    for picture in pictures():
        _, (probability,) = expected(heads_dir, SINGLE, picture)
        (image,) = asked(served, picture, model=SINGLE)["images"]
        assert [one["probability"] for one in image["predictions"]] == [pytest.approx(probability, abs=2e-6)]
        assert image["labels"] == (image["predictions"] if probability >= 0.5 else [])
        answers.add(bool(image["labels"]))
    assert answers == {True, False}


def test_a_rejecting_model_answers_no_class_below_its_threshold(served: TestClient, heads_dir: Path) -> None:
    answers = set()
    for picture in pictures():
        card, probabilities = expected(heads_dir, REJECTING, picture)
        (image,) = asked(served, picture, model=REJECTING)["images"]
        rejected = bool(probabilities.max() < 0.5)
        assert image["rejected"] is rejected
        assert image["label"] == (None if rejected else card.labels[int(probabilities.argmax())].name)
        assert len(image["predictions"]) == 5
        answers.add(rejected)
    assert answers == {True, False}


def test_some_classes_of_a_softmax(served: TestClient, heads_dir: Path, photo: bytes) -> None:
    _, probabilities = expected(heads_dir, PLAIN, photo)
    answer = asked(served, photo, labels="café,0,cat,,  4")
    assert answer["restricted_to"] == ["cat", "café", "crane"]
    (image,) = answer["images"]
    mass = float(probabilities[[0, 2, 4]].sum())
    assert image["mass"] == pytest.approx(mass, abs=2e-6)
    found = {one["class_id"]: one["probability"] for one in image["predictions"]}
    assert found == {i: pytest.approx(probabilities[i] / mass, abs=2e-6) for i in (0, 2, 4)}
    assert sum(found.values()) == pytest.approx(1, abs=2e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_classes_may_be_a_field_of_the_form(served: TestClient, photo: bytes) -> None:
    by_field = served.post("/classify", data={"labels": "cat,4", "top_k": "1"}, files=form(photo)).json()
    assert by_field == asked(served, photo, labels="cat,4", top_k=1)
    assert len(by_field["images"][0]["predictions"]) == 1


def test_a_name_wins_over_an_id_and_is_composed(served: TestClient, photo: bytes) -> None:
    (image,) = asked(served, photo, labels="3")["images"]
    assert [one["label"] for one in image["predictions"]] == ["3"]
    assert image["predictions"][0]["probability"] == 1
    (image,) = asked(served, photo, labels="cafe\u0301")["images"]
    assert [one["class_id"] for one in image["predictions"]] == [2]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("cat,bird,fish", f"{PLAIN} has no class 'bird' or 'fish': give names or ids of classes as "),
        ("6", "has no class '6': "),
        ("dog, small", "has no class 'dog' or 'small': "),
        (",", "give names or ids of classes as /models/resnet8-cifar/labels lists them, such as cat, dog, small, "),
        ("nope", " and others."),
        ("crane", f"{PLAIN} has several classes 'crane': give one by its id (4, 5)."),
    ],
)
def test_classes_that_the_model_does_not_have(served: TestClient, photo: bytes, labels: str, reason: str) -> None:
    response = served.post("/classify", params={"labels": labels}, files=form(photo))
    document = problem(response, 422, "invalid-parameter")
    assert document["parameter"] == "labels"
    assert reason in document["detail"]


def test_top_k_is_bounded_by_the_classes_that_are_left(served: TestClient, photo: bytes) -> None:
    response = served.post("/classify?labels=cat,4&top_k=3", files=form(photo))
    assert "from 1 to 2 (the classes that the request names)" in problem(response, 422, "invalid-parameter")["detail"]


def test_some_classes_of_a_sigmoid_keep_their_probabilities(served: TestClient, photo: bytes) -> None:
    (whole,) = asked(served, photo, model=MULTI, top_k=CLASSES)["images"]
    answer = asked(served, photo, model=MULTI, labels="5,class 1,1")
    (image,) = answer["images"]
    assert answer["restricted_to"] == ["class 1", "class 5"]
    assert image["predictions"] == [one for one in whole["predictions"] if one["class_id"] in (1, 5)]
    assert image["labels"] == [one for one in whole["labels"] if one["class_id"] in (1, 5)]
    assert any(one["class_id"] == 5 for one in image["labels"])  # its threshold is 0
    assert "mass" not in image


def test_a_rejection_judges_the_probability_before_it_is_renormalised(served: TestClient, heads_dir: Path) -> None:
    sure = next(p for p in pictures() if expected(heads_dir, REJECTING, p)[1].max() >= 0.5)
    _, probabilities = expected(heads_dir, REJECTING, sure)
    best, *_, worst = np.argsort(-probabilities).tolist()
    (image,) = asked(served, sure, model=REJECTING, labels=str(worst))["images"]
    assert image["predictions"][0]["probability"] == 1
    assert (image["rejected"], image["label"]) == (True, None)
    (image,) = asked(served, sure, model=REJECTING, labels=f"{worst},{best}")["images"]
    assert (image["rejected"], image["label"]) == (False, f"class {best}")


def test_a_mass_of_nothing_stays_nothing(tmp_path: Path, heads_dir: Path, photo: bytes) -> None:
    """Where float32 rounds every probability to 0, there is nothing to divide by."""
    root = tmp_path / "models"
    shutil.copytree(heads_dir / PLAIN, root / PLAIN)
    folder = root / PLAIN / "1"
    cold = Calibration(temperature=1e-4, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    (folder / "card.json").write_text(read_card(folder).model_copy(update={"calibration": cold}).to_json())
    worst = int(expected(root, PLAIN, photo)[1].argmin())
    with TestClient(create_app(Settings(models_dir=root, provider="cpu", max_batch=1))) as client:
        until_ready(client)
        (image,) = asked(client, photo, labels=worst)["images"]
    assert (image["mass"], image["predictions"][0]["probability"]) == (0, 0)


def test_the_head_and_the_thresholds_are_listed(served: TestClient) -> None:
    heads = {model["name"]: model["head"] for model in served.get("/models").json()["models"]}
    assert heads[PLAIN] == {"kind": "softmax", "rejection": None}
    assert heads[MULTI] == {"kind": "sigmoid", "rejection": None}
    assert heads[REJECTING]["rejection"]["threshold"] == 0.5
    found = {
        name: [one["threshold"] for one in served.get(f"/models/{name}/labels").json()]
        for name in (PLAIN, MULTI, SINGLE)
    }
    assert found == {PLAIN: [None] * CLASSES, MULTI: [0.1, 0.9, 0.3, 0.7, 0.5, 0.0], SINGLE: [0.5]}


@pytest.mark.parametrize("name", [MULTI, REJECTING])
def test_the_metrics_count_what_the_model_answers(served: TestClient, photo: bytes, name: str) -> None:
    before = counted(served, name)
    (image,) = asked(served, as_file(photo, "PNG"), model=name)["images"]
    asked(served, as_file(photo, "PNG"), model=name, labels="class 3")  # as if it asked for all
    names = [one["label"] for one in image["labels"]] if name == MULTI else [image["label"]] * (not image["rejected"])
    after = counted(served, name)
    assert {label: after[label] - before[label] for label in after if after[label] > before[label]} == dict.fromkeys(
        names, 2
    )


def counted(client: TestClient, model: str) -> dict[str, float]:
    """`resnet_predicted_classes_total` by class."""
    return {
        sample.labels["class"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "resnet_predicted_classes_total" and sample.labels["model"] == model
    }


def test_of_thousands_of_unknown_classes_a_few_are_named(served: TestClient, photo: bytes) -> None:
    labels = ",".join(f"x{number}" for number in range(8000))
    response = served.post("/classify", data={"labels": labels}, files=form(photo))
    assert response.status_code == 422
    reason = response.json()["reason"]
    assert "has no class 'x0' or 'x1' or 'x2' or 'x3' or 'x4' or others: " in reason
    assert len(reason) < 500
