"""Class activation maps: their mean and the bias are the logit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.runtime.choices import Precision, ProviderName
from service.runtime.class_activation import Classifier, NoClassifier
from service.runtime.model_card import Architecture
from service.runtime.model_folder import CLASSIFIER_FILE, CardError, read_card, verify_digests
from service.runtime.preprocessing import Views
from tests.service.runtime.engines import load_or_skip
from tests.support.tiny_models import publish_tiny

# How far the sum of a map may be from the logit, as a part of the logits' range (docs/explain.md). Of int8:
# tests/model_export/quantise/test_int8.py.
BOUND: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.01}


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")])
@pytest.mark.machine
def test_the_mean_of_a_map_and_the_bias_are_the_logit(
    resnet8: Path, provider: ProviderName, precision: Precision
) -> None:
    engine = load_or_skip(resnet8, provider, precision)
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), np.uint8)
    outputs = engine.infer(images, ("logits", "feature_map"))
    classifier = Classifier.read(resnet8, read_card(resnet8))
    limit = BOUND[precision] * np.ptp(outputs["logits"])
    for logits, feature_map in zip(outputs["logits"], outputs["feature_map"], strict=True):
        maps = classifier.maps(feature_map, range(10))
        assert (maps.shape, maps.dtype) == ((10, 8, 8), np.float32)
        np.testing.assert_allclose(maps.mean(axis=(1, 2)) + classifier.biases, logits, rtol=0, atol=limit)


def test_a_place_of_the_image_is_a_place_of_the_map(tmp_path: Path) -> None:
    """The feature map of this graph is the image in squares: a bright square is seen where it is."""
    folder = publish_tiny(Architecture(depth=8, family="cifar", num_classes=4), tmp_path)
    images = np.zeros((1, 3, 32, 32), np.uint8)
    images[0, :, 4:8, 24:28] = 255
    feature_map = load_or_skip(folder, "cpu", "fp32").infer(images, ("feature_map",))["feature_map"][0]
    for values in Classifier.read(folder, read_card(folder)).maps(feature_map, (3, 1)):
        deviation = np.abs(values - values[0, 0])
        assert np.unravel_index(deviation.argmax(), deviation.shape) == (1, 6)
        assert np.count_nonzero(deviation > 1e-6) == 1


def test_the_maps_are_those_of_the_classes_that_were_asked_for(resnet8: Path) -> None:
    classifier = Classifier.read(resnet8, read_card(resnet8))
    feature_map = np.random.default_rng(0).random((64, 8, 8), np.float32)
    every = classifier.maps(feature_map, range(10))
    np.testing.assert_allclose(classifier.maps(feature_map, (7, 2)), every[[7, 2]], rtol=1e-5)


def test_a_version_of_an_older_release_has_none(published: Path) -> None:
    card = read_card(published)
    with pytest.raises(NoClassifier, match=r"without classifier\.npy, by an older release"):
        Classifier.read(published, card.model_copy(update={"classifier_sha256": None}))


def test_several_views_are_not_explained(published: Path) -> None:
    card = read_card(published)
    views = card.preprocessing.model_copy(update={"views": Views(count=5, size=28)})
    with pytest.raises(NoClassifier, match="several views"):
        Classifier.read(published, card.model_copy(update={"preprocessing": views}))


@pytest.mark.parametrize("content", [None, b"", b"not an array", "another shape"])
def test_a_missing_or_damaged_file(published: Path, content: bytes | str | None) -> None:
    path = published / CLASSIFIER_FILE
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, np.zeros((10, 64), np.float32))
    with pytest.raises(NoClassifier, match="has the shape" if isinstance(content, str) else "cannot be read"):
        Classifier.read(published, read_card(published))


def test_its_digest_is_verified_and_its_absence_forgiven(published: Path) -> None:
    card, path = read_card(published), published / CLASSIFIER_FILE
    verify_digests(published, card)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CardError, match=r"classifier\.npy has SHA-256"):
        verify_digests(published, card)
    path.unlink()
    verify_digests(published, card)
