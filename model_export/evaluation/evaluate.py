"""Runs a data set through a network: decoding, batching, averaging over views."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Dataset, explain_unreadable
from model_export.errors import InputError, shortlist
from model_export.evaluation.crops import resized_whole, shorter_sides, ten_crops
from model_export.evaluation.predictors import Predictor
from model_export.evaluation.result import Evaluation, Method
from service.runtime.images.decoding import decode
from service.runtime.machine import usable_cores
from service.runtime.model_card import Label
from service.runtime.preprocessing import Preprocessing
from service.runtime.progress import Progress
from service.runtime.scores import probabilities_of

log = logging.getLogger(__name__)

Views = list[np.ndarray]  # of one image: uint8 (views, 3, H, W), one array per size


def evaluate(
    predictor: Predictor, dataset: Dataset, *, method: Method = "1-crop", batch_size: int = 32, shown: bool = True
) -> Evaluation:
    """Runs every image of a data set through a network, for the probabilities that the service would answer.

    With several views of an image, their softmax is averaged: ten crops, or the whole image at five scales. Decoding
    uses all cores and stays one batch ahead of the network.

    Args:
        batch_size: images of the network's usual size per batch; batches of larger images are smaller.
        shown: whether progress is shown.

    Raises:
        InputError: the data set is empty, has a broken image, or has classes that the model does not know; or one of
            both is multi-label.
    """
    if predictor.head.multi_label or dataset.multi_label:
        raise InputError(
            f"{predictor.name} has a {predictor.head.kind} head, and the images of {dataset.name} have "
            f"{'any number of classes' if dataset.multi_label else 'one class each'}: give data of the same kind"
        )
    labels = class_ids(dataset, predictor)[dataset.labels]
    probabilities = mean_probabilities(predictor, dataset, method=method, batch_size=batch_size, shown=shown)
    classes = tuple(label.name for label in predictor.labels)
    return Evaluation(predictor.name, dataset.name, method, classes, labels, probabilities, predictor.temperature)


def mean_probabilities(
    predictor: Predictor, dataset: Dataset, *, method: Method, batch_size: int, shown: bool
) -> np.ndarray:
    """The probabilities of each image, a mean over its views: (N, classes). Raises as `evaluate`.

    They are float32; of sigmoid float64, which tells probabilities near 1 apart as well as those near 0.
    """
    if not len(dataset):
        raise InputError(f"{dataset.name} holds no images to evaluate on: give another data set")
    p = predictor.preprocessing
    if method != "1-crop" and p.views:
        raise InputError(
            f"{predictor.name} cuts {p.views.count} crops out of each image by itself, at fixed places, so {method} "
            "would measure something else: evaluate it with 1-crop"
        )
    if method != "1-crop" and not (p.cuts_a_square and p.channels == 3):
        raise InputError(
            f"{predictor.name} does not take squares in colour, cut out of the image, as {method} does: evaluate it "
            "with 1-crop"
        )
    dtype = np.float64 if predictor.head.multi_label else np.float32
    probabilities = np.empty((len(dataset), len(predictor.labels)), dtype)
    images_per_batch = max(1, batch_size // 10) if method == "10-crop" else batch_size
    done = 0
    with Progress(f"{predictor.name}: {method} on {dataset.name}", len(dataset), shown=shown) as progress:
        for batch in _decoded_ahead(dataset, predictor.preprocessing, method, images_per_batch):
            probabilities[done : done + len(batch)] = _mean_over_views(predictor, batch, batch_size)
            done += len(batch)
            progress.advance(len(batch))
    return probabilities


def class_ids(dataset: Dataset, predictor: Predictor) -> np.ndarray:
    """The model's class id for each class of a data set, matched by name or WordNet id: int64 (classes,).

    Raises:
        InputError: the model does not know some of the classes.
    """
    names = tuple(label.name for label in predictor.labels)
    if dataset.classes == names:
        return np.arange(len(names))
    ids = _ids_by_name(predictor.labels)
    if unknown := [name for name in dataset.classes if name not in ids]:
        raise InputError(
            f"{predictor.name} does not know {len(unknown)} of the {len(dataset.classes)} classes of {dataset.name} "
            f"({shortlist(unknown)}): name them as the model does ({shortlist(names)}), or leave them out"
        )
    matched = np.array([ids[name] for name in dataset.classes], dtype=np.int64)
    if (covered := len(np.unique(matched))) < len(names):
        log.info("%s has %d of the %d classes of %s", dataset.name, covered, len(names), predictor.name)
    return matched


def _ids_by_name(labels: Sequence[Label]) -> dict[str, int]:
    """Class ids by WordNet id and by name. A name that several classes share is ambiguous and left out."""
    times = Counter(label.name for label in labels)
    by_name = {label.name: i for i, label in enumerate(labels) if times[label.name] == 1}
    return by_name | {label.wnid: i for i, label in enumerate(labels) if label.wnid}


def _decoded_ahead(
    dataset: Dataset, preprocessing: Preprocessing, method: Method, size: int
) -> Iterator[Sequence[Views]]:
    """The views of every image, in batches of `size` images; the next batch is decoded while one is in use."""
    starts = range(0, len(dataset), size)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:

        def submit(start: int) -> list[Future[Views]]:
            indices = range(start, min(start + size, len(dataset)))
            return [pool.submit(_views, dataset, i, preprocessing, method) for i in indices]

        batch = submit(0)
        for start in starts:
            next_batch = submit(start + size)
            yield [future.result() for future in batch]
            batch = next_batch


def _views(dataset: Dataset, index: int, preprocessing: Preprocessing, method: Method) -> Views:
    with explain_unreadable(dataset, index):
        if method == "1-crop":
            return [decode(dataset.read(index), preprocessing, max_pixels=MAX_PIXELS).pixels[None]]
        image = dataset.image(index, preprocessing.window)
    if method == "10-crop":
        return [ten_crops(image, preprocessing)]
    return [resized_whole(image, side, preprocessing.interpolation) for side in shorter_sides(preprocessing.height)]


def _mean_over_views(predictor: Predictor, batch: Sequence[Views], batch_size: int) -> np.ndarray:
    """The mean of the probabilities over the views of each image: float64 (images, classes)."""
    by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)  # image number, view
    for image, views in enumerate(batch):
        for same_size in views:
            by_size[same_size.shape[1:]].extend((image, view) for view in same_size)
    total = np.zeros((len(batch), len(predictor.labels)))
    for (_, height, width), numbered in by_size.items():
        # as many pixels as a batch of the usual size, hence about as much memory
        usual = predictor.preprocessing.height * predictor.preprocessing.width
        views_per_batch = max(1, batch_size * usual // (height * width))
        for start in range(0, len(numbered), views_per_batch):
            images, views = zip(*numbered[start : start + views_per_batch], strict=True)
            logits = predictor.logits(np.stack(views)).astype(np.float64)
            np.add.at(total, list(images), probabilities_of(logits, predictor.head.kind, predictor.temperature))
    return total / [[sum(map(len, views))] for views in batch]
