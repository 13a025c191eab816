"""One image as the service sees and answers it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.evaluation.preview import Answer, Difference, answer, compare, see
from service.runtime.engine import EngineInfo
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.model_card import Calibration, Preprocessing
from service.runtime.model_folder import read_card
from service.runtime.scores import TopK, softmax


def of(class_ids: list[int], probabilities: list[float]) -> Answer:
    return Answer(EngineInfo("cpu", "fp32"), TopK(np.array(class_ids), np.array(probabilities, np.float32)), 1.0, 0.1)


def test_an_answer_has_every_class_the_temperature_and_the_embedding(tiny_dir: Path, photo: bytes) -> None:
    folder = tiny_dir / "resnet8-cifar" / "1"
    calibration = Calibration(temperature=2.5, ece_before=0.3, ece_after=0.1, dataset="pictures", images=100)
    card = read_card(folder).model_copy(update={"calibration": calibration})
    engine = load_engine(folder, card, provider="cpu", threads=1)
    pixels = decode(photo, card.preprocessing, max_pixels=10**7).pixels
    found = answer(engine, card, pixels)
    outputs = engine.infer(pixels[None], ("logits", "embedding"))
    np.testing.assert_allclose(found.probabilities, softmax(outputs["logits"], 2.5)[0], rtol=1e-5)
    assert found.classes.class_ids.tolist() == np.argsort(-outputs["logits"][0], kind="stable").tolist()
    assert found.embedding_norm == pytest.approx(np.sqrt((outputs["embedding"] ** 2).sum()))


def test_the_difference_is_that_of_a_class_not_of_a_rank() -> None:
    one, other = of([1, 0, 2], [0.5, 0.3, 0.2]), of([0, 1, 2], [0.5, 0.25, 0.25])
    assert compare(one, other) == Difference(pytest.approx(0.25), class_id=1, same_class=False)
    assert compare(one, one) == Difference(0.0, class_id=0, same_class=True)


@pytest.mark.parametrize("scaled", [True, False])
def test_what_is_seen_is_what_the_service_decodes(photo: bytes, scaled: bool) -> None:
    small = Preprocessing(resize=32, crop=32)
    seen = see(photo, small, max_pixels=10**7, scaled=scaled)
    expected = decode(photo, small, max_pixels=10**7, scaled=scaled)
    assert np.array_equal(seen.decoded.pixels, expected.pixels)
    assert (seen.path.divisor > 1) == scaled
