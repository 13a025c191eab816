"""From a network and a data set to an `Evaluation`."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Dataset
from model_export.errors import InputError, some
from model_export.evaluation.crops import scales, ten_crops, whole
from model_export.evaluation.predictors import Predictor
from model_export.evaluation.result import Evaluation, Method
from model_export.progress import Progress
from service.card import Label, Preprocessing
from service.errors import ImageProblem
from service.imaging import decode
from service.providers import usable_cores

logger = logging.getLogger(__name__)

Views = list[np.ndarray]  # of one image: uint8 (views, 3, H, W), one array for each size


def evaluate(
    predictor: Predictor, dataset: Dataset, *, method: Method = "1-crop", batch_size: int = 32, shown: bool = True
) -> Evaluation:
    """Runs every image of a data set through a network.

    Of several views of an image the softmax is averaged: ten crops, or the whole image at five scales. Decoding runs
    on all cores, one batch ahead of the network.

    Args:
        batch_size: how many images of the network's usual size it computes at once; of larger ones it takes fewer.

    Raises:
        InputError: the data set holds classes that the model does not know, a broken image, or nothing.
    """
    if not len(dataset):
        raise InputError(f"{dataset.name} holds no images to evaluate on: give another data set")
    labels = class_ids(dataset, predictor)[dataset.labels]
    probabilities = np.empty((len(dataset), len(predictor.labels)), np.float32)
    at_once = max(1, batch_size // 10) if method == "10-crop" else batch_size
    done = 0
    with Progress(f"{predictor.name}: {method} on {dataset.name}", len(dataset), shown=shown) as progress:
        for batch in _batches_ahead(dataset, predictor.preprocessing, method, at_once):
            probabilities[done : done + len(batch)] = _scores(predictor, batch, batch_size)
            done += len(batch)
            progress.advance(len(batch))
    classes = tuple(label.name for label in predictor.labels)
    return Evaluation(predictor.name, dataset.name, method, classes, labels, probabilities)


def ensemble(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The mean of several models' probabilities (section 4.1 of the paper, table 5).

    Raises:
        InputError: they are not of the same images in the same way, or the models' classes differ.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.classes != first.classes:
            raise InputError(
                f"{first.model} and {other.model} have different classes, or in another order: an ensemble needs "
                "models with the same labels"
            )
        same_images = other.dataset == first.dataset and np.array_equal(other.labels, first.labels)
        if not same_images or other.method != first.method:
            raise InputError(
                f"{first.model} and {other.model} were not evaluated in the same way on the same images "
                f"({first.method} on {first.dataset}, {other.method} on {other.dataset}): evaluate both again"
            )
    mean = np.stack([evaluation.probabilities for evaluation in evaluations]).mean(axis=0, dtype=np.float64)
    return dataclasses.replace(
        first, model=f"ensemble of {len(evaluations)} models", probabilities=mean.astype(np.float32)
    )


def class_ids(dataset: Dataset, predictor: Predictor) -> np.ndarray:
    """The model's class id of each class of a data set, by name or WordNet id: int64 (classes of the data set,).

    Raises:
        InputError: the model does not know some of the classes.
    """
    names = tuple(label.name for label in predictor.labels)
    if dataset.classes == names:
        return np.arange(len(names))
    ids = _ids(predictor.labels)
    if unknown := [name for name in dataset.classes if name not in ids]:
        raise InputError(
            f"{predictor.name} does not know {len(unknown)} of the {len(dataset.classes)} classes of {dataset.name} "
            f"({some(unknown)}): name them as the model does ({some(names)}), or leave them out"
        )
    found = np.array([ids[name] for name in dataset.classes], dtype=np.int64)
    if (covered := len(np.unique(found))) < len(names):
        logger.info("%s has %d of the %d classes that %s knows", dataset.name, covered, len(names), predictor.name)
    return found


def _ids(labels: Sequence[Label]) -> dict[str, int]:
    """Class ids by WordNet id and by name; names that several classes share tell nothing and are left out."""
    times = Counter(label.name for label in labels)
    by_name = {label.name: i for i, label in enumerate(labels) if times[label.name] == 1}
    return by_name | {label.wnid: i for i, label in enumerate(labels) if label.wnid}


def _batches_ahead(
    dataset: Dataset, preprocessing: Preprocessing, method: Method, size: int
) -> Iterator[Sequence[Views]]:
    """The views of every image, in batches of `size` images: while one is used, the next is being decoded."""
    starts = range(0, len(dataset), size)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:

        def begin(start: int) -> list[Future[Views]]:
            indices = range(start, min(start + size, len(dataset)))
            return [pool.submit(_views, dataset, i, preprocessing, method) for i in indices]

        batch = begin(0)
        for start in starts:
            following = begin(start + size)
            yield [future.result() for future in batch]
            batch = following


def _views(dataset: Dataset, index: int, preprocessing: Preprocessing, method: Method) -> Views:
    try:
        if method == "1-crop":
            return [decode(dataset.read(index), preprocessing, max_pixels=MAX_PIXELS).pixels[None]]
        image = dataset.image(index)
    except ImageProblem as problem:
        raise _unusable(dataset.title(index), str(problem).rstrip(".")) from problem
    except OSError as error:
        raise _unusable(dataset.title(index), error.strerror or str(error)) from error
    if method == "10-crop":
        return [ten_crops(image, preprocessing)]
    return [whole(image, side, preprocessing.interpolation) for side in scales(preprocessing.crop)]


def _unusable(title: str, fault: str) -> InputError:
    return InputError(f"{title} cannot be evaluated: {fault}: replace it or leave it out")


def _scores(predictor: Predictor, batch: Sequence[Views], batch_size: int) -> np.ndarray:
    """The mean softmax over the views of each image: float64 (images, classes)."""
    of_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)  # image number, view
    for image, views in enumerate(batch):
        for same_size in views:
            of_size[same_size.shape[1:]].extend((image, view) for view in same_size)
    total = np.zeros((len(batch), len(predictor.labels)))
    for (_, height, width), numbered in of_size.items():
        # as many pixels at once as a batch of the usual size has, and so about as much memory
        at_once = max(1, batch_size * predictor.preprocessing.crop**2 // (height * width))
        for start in range(0, len(numbered), at_once):
            images, views = zip(*numbered[start : start + at_once], strict=True)
            np.add.at(total, list(images), _softmax(predictor.logits(np.stack(views))))
    return total / total.sum(axis=1, keepdims=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, classes)."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
