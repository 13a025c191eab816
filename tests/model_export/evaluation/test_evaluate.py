"""Evaluations on real networks and real JPEG files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.datasets.base import MAX_PIXELS, Dataset
from model_export.errors import InputError
from model_export.evaluation.crops import resized_whole, shorter_sides, ten_crops
from model_export.evaluation.evaluate import class_ids, evaluate
from model_export.evaluation.predictors import OnnxPredictor, TorchPredictor
from model_export.evaluation.result import Method
from model_export.weights.random_weights import random_weights
from service.runtime.images.decoding import decode
from service.runtime.model_card import Architecture, Label
from service.runtime.model_folder import model_versions
from service.runtime.preprocessing import Preprocessing

Make = Callable[..., Dataset]
CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)


@pytest.fixture(scope="module")
def predictor() -> TorchPredictor:
    return TorchPredictor(random_weights(CIFAR), "net")


def with_labels(*labels: Label) -> TorchPredictor:
    architecture = CIFAR.model_copy(update={"num_classes": len(labels)})
    return TorchPredictor(random_weights(architecture)._replace(labels=labels), "net")


def one_by_one(predictor: TorchPredictor, views: np.ndarray) -> np.ndarray:
    """The mean softmax of one image's views, run one by one in PyTorch."""
    logits = np.concatenate([predictor.logits(view[None]) for view in views])
    return torch.softmax(torch.from_numpy(logits), dim=1).mean(dim=0).numpy()


def test_a_served_model_answers_as_pytorch_does(models_dir: Path, predictor: TorchPredictor, pictures: Make) -> None:
    entry = next(entry for entry in model_versions(models_dir) if entry.name == "resnet8-cifar")
    data = pictures(23)
    here = evaluate(predictor, data, batch_size=8, shown=False)
    served = evaluate(OnnxPredictor(entry, "cpu"), data, batch_size=5, shown=False)
    assert here.probabilities.argmax(axis=1).tolist() == served.probabilities.argmax(axis=1).tolist()
    np.testing.assert_allclose(here.probabilities, served.probabilities, atol=1e-5)
    assert len(set(here.probabilities.argmax(axis=1).tolist())) > 1
    assert served.model == "resnet8-cifar 1 (cpu, fp32)"


def test_one_crop_is_that_of_the_service(predictor: TorchPredictor, pictures: Make) -> None:
    data = pictures(7)
    found = evaluate(predictor, data, batch_size=3, shown=False)
    assert (found.model, found.dataset, found.method) == ("net", "pictures", "1-crop")
    assert found.classes == data.classes
    assert (found.probabilities.shape, found.probabilities.dtype) == ((7, 10), np.float32)
    assert (found.labels.tolist(), found.labels.dtype) == (list(range(7)), np.int64)
    for i in range(7):
        pixels = decode(data.read(i), predictor.preprocessing, max_pixels=MAX_PIXELS).pixels
        np.testing.assert_allclose(found.probabilities[i], one_by_one(predictor, pixels[None]), atol=1e-6)


def test_ten_crops_are_averaged_after_the_softmax(predictor: TorchPredictor, pictures: Make) -> None:
    data = pictures(5)
    found = evaluate(predictor, data, method="10-crop", batch_size=20, shown=False)
    for i in range(5):
        expected = one_by_one(predictor, ten_crops(data.image(i), predictor.preprocessing))
        np.testing.assert_allclose(found.probabilities[i], expected, atol=1e-6)


def test_scales_are_averaged_after_the_softmax(predictor: TorchPredictor, pictures: Make) -> None:
    data = pictures(5)
    found = evaluate(predictor, data, method="multi-scale", batch_size=4, shown=False)
    for i in range(5):
        views = [resized_whole(data.image(i), side, "bilinear") for side in shorter_sides(32)]
        expected = np.mean([one_by_one(predictor, view) for view in views], axis=0)
        np.testing.assert_allclose(found.probabilities[i], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["1-crop", "10-crop", "multi-scale"])
def test_the_batch_size_changes_nothing(predictor: TorchPredictor, pictures: Make, method: Method) -> None:
    one, many = (evaluate(predictor, pictures(6), method=method, batch_size=n, shown=False) for n in (1, 64))
    np.testing.assert_allclose(one.probabilities, many.probabilities, atol=1e-6)
    np.testing.assert_allclose(one.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_labels_become_the_models_class_ids(predictor: TorchPredictor, pictures: Make) -> None:
    """A folder sorts its classes by name; the model's order differs."""
    found = evaluate(predictor, pictures(4, classes=("class 9", "class 2", "class 5")), shown=False)
    assert found.labels.tolist() == [9, 2, 5, 9]
    assert found.classes == tuple(f"class {i}" for i in range(10))


def test_some_of_the_classes(predictor: TorchPredictor, pictures: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert class_ids(pictures(4, classes=("class 9", "class 2")), predictor).tolist() == [9, 2]
    assert "pictures has 2 of the 10 classes of net" in caplog.text


def test_wordnet_ids(pictures: Make) -> None:
    """Two classes may share a name; their WordNet ids tell them apart."""
    crane = with_labels(Label(name="crane", wnid="n02"), Label(name="crane", wnid="n03"), Label(name="dog", wnid="n01"))
    assert class_ids(pictures(3, classes=("n01", "n02", "n03")), crane).tolist() == [2, 0, 1]
    assert class_ids(pictures(3, classes=("dog", "n03")), crane).tolist() == [2, 1]
    assert class_ids(pictures(3, classes=("crane", "crane", "dog")), crane).tolist() == [0, 1, 2]  # the same order
    with pytest.raises(InputError, match=r"does not know 1 of the 2 classes of pictures \(crane\)"):
        class_ids(pictures(3, classes=("crane", "dog")), crane)


def test_classes_the_model_does_not_know(predictor: TorchPredictor, pictures: Make) -> None:
    data = pictures(4, classes=("class 1", "cat", "dog"))
    with pytest.raises(InputError) as caught:
        evaluate(predictor, data, shown=False)
    assert str(caught.value) == (
        "net does not know 2 of the 3 classes of pictures (cat, dog): name them as the model does (class 0, class 1, "
        "class 2, class 3, class 4, ...), or leave them out"
    )


@pytest.mark.parametrize("method", ["1-crop", "10-crop", "multi-scale"])
def test_a_broken_image_is_named(predictor: TorchPredictor, pictures: Make, method: Method) -> None:
    data = pictures(9)
    data.replaced[6] = data.read(6)[:900]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^picture 6 cannot be used: The image ends before its last pixel"):
        evaluate(predictor, data, method=method, batch_size=2, shown=False)


@pytest.mark.parametrize("method", ["10-crop", "multi-scale"])
def test_a_model_that_cuts_crops_itself_takes_no_others(pictures: Make, method: Method) -> None:
    loaded = random_weights(CIFAR)
    views = {"count": 10, "size": 32}
    preprocessing = Preprocessing.model_validate(
        loaded.preprocessing.model_dump() | {"resize": 36, "crop": 36, "views": views}
    )
    predictor = TorchPredictor(loaded._replace(preprocessing=preprocessing), "net")
    with pytest.raises(InputError, match=rf"net cuts 10 crops out of each image by itself, .*{method} .* with 1-crop"):
        evaluate(predictor, pictures(2), method=method, shown=False)


def test_a_missing_image_is_named(predictor: TorchPredictor, pictures: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(2)
    monkeypatch.setattr(data, "read", lambda index: Path("/nowhere", str(index)).read_bytes())
    with pytest.raises(InputError, match=r"^picture 0 cannot be used: No such file or directory: replace it"):
        evaluate(predictor, data, shown=False)


def test_no_images(predictor: TorchPredictor, pictures: Make) -> None:
    with pytest.raises(InputError, match="pictures holds no images to evaluate on"):
        evaluate(predictor, pictures(0), shown=False)
