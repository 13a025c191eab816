"""What a request asks for, and the tensors of its answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.open_inference.answers import Wanted, bytes_of, computed_for, tensors, wanted_of
from service.open_inference.errors import Code, ProtocolError
from service.open_inference.messages import OutputTensor, RequestedOutput
from service.runtime.graph import OUTPUTS, Output
from service.runtime.measured import Calibration
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import read_card


@pytest.fixture
def card(tiny_dir: Path) -> ModelCard:
    return read_card(tiny_dir / "resnet8-cifar" / "1")


def computed(card: ModelCard, images: int = 2) -> list[dict[Output, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [
        {name: rng.normal(size=card.output_shapes[name]).astype(np.float32) for name in OUTPUTS} for _ in range(images)
    ]


def test_without_names_everything_is_wanted(card: ModelCard) -> None:
    wanted = wanted_of([], card)
    assert [one.name for one in wanted] == ["logits", "probabilities", "embedding", "feature_map"]
    assert computed_for(wanted) == OUTPUTS


@pytest.mark.parametrize(
    ("names", "graph"),
    [(["probabilities"], ("logits",)), (["feature_map", "logits"], ("logits", "feature_map")), (["embedding"],) * 2],
)
def test_only_what_is_needed_is_computed(card: ModelCard, names: list[str], graph: tuple[Output, ...]) -> None:
    assert computed_for(wanted_of([RequestedOutput(name) for name in names], card)) == tuple(graph)


def test_tensors_are_in_the_order_of_the_request(card: ModelCard) -> None:
    images = computed(card)
    wanted = [Wanted("feature_map"), Wanted("logits")]
    features, logits = tensors(wanted, images, card)
    assert (features.name, features.datatype, features.shape) == (
        "feature_map",
        "FP32",
        (2, *images[0]["feature_map"].shape),
    )
    np.testing.assert_array_equal(np.frombuffer(logits.raw(), "<f4").reshape(2, 10), [one["logits"] for one in images])
    assert logits.values() == [float(value) for one in images for value in one["logits"]]


def test_probabilities_have_the_cards_temperature(card: ModelCard) -> None:
    calibration = Calibration(temperature=2.0, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    images = computed(card)
    (found,) = tensors([Wanted("probabilities")], images, card.model_copy(update={"calibration": calibration}))
    exponentials = np.exp(np.array([one["logits"] for one in images]) / 2)
    np.testing.assert_allclose(found.data, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-5)


def test_classification_names_the_best_classes(card: ModelCard) -> None:
    logits = np.array([0.5, -1, 3, 2, 0, 0, 0, 0, 0, 0], np.float32)
    by_logit, by_probability = tensors(
        [Wanted("logits", 2), Wanted("probabilities", 1)], [{"logits": logits}, {"logits": 0 - logits}], card
    )
    assert (by_logit.datatype, by_logit.shape) == ("BYTES", (2, 2))
    assert by_logit.data == [b"3.000000:2:class 2", b"2.000000:3:class 3", b"1.000000:1:class 1", b"0.000000:4:class 4"]
    share = np.exp(3) / np.exp(logits).sum()
    assert by_probability.values()[0] == f"{share:f}:2:class 2".encode()
    assert by_logit.raw().startswith(b"\x12\0\0\0" + b"3.000000:2:class 2")


def test_more_classes_than_there_are(card: ModelCard) -> None:
    assert wanted_of([RequestedOutput("logits", {"classification": 99})], card) == [Wanted("logits", 10)]
    assert wanted_of([RequestedOutput("embedding", {"classification": 0})], card) == [Wanted("embedding")]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (RequestedOutput("softmax"), "no output 'softmax': choose from logits"),
        (RequestedOutput("logits", {"classification": -1}), "classification of output 'logits' is -1"),
        (RequestedOutput("logits", {"classification": 1.5}), "is 1.5"),
        (RequestedOutput("logits", {"classification": True}), "is True"),
        (RequestedOutput("logits", {"classification": "3"}), "is '3'"),
        (RequestedOutput("embedding", {"classification": 3}), "has no classes"),
        (RequestedOutput("logits", {"shared_memory_region": "x"}), "shared memory"),
    ],
)
def test_what_is_not_there(card: ModelCard, output: RequestedOutput, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        wanted_of([output], card)


def test_an_output_asked_for_twice(card: ModelCard) -> None:
    with pytest.raises(ProtocolError, match="twice") as caught:
        wanted_of([RequestedOutput("logits"), RequestedOutput("logits")], card)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_bytes_of_an_answer(card: ModelCard) -> None:
    assert bytes_of([Wanted("probabilities"), Wanted("embedding")], card) == 2 * 4 * (
        10 + card.output_shapes["embedding"][0]
    )


def test_floats_are_little_endian() -> None:
    assert OutputTensor.of_floats("x", np.array([1.0], ">f4")).raw() == b"\0\0\x80?"
