"""Exact class activation maps: which places of an image speak for a class, and how much.

The last layer of a ResNet is linear, and what it gets is a mean over places. So its logit is a mean, too: of the last
feature map, weighted with the class's row of that layer ("Learning Deep Features for Discriminative Localization",
Zhou et al. 2016, section 2):

    logit[c] = bias[c] + mean over y, x of map[c, y, x]        map[c] = sum over k of weights[c, k] * feature_map[k]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.runtime.model_card import ModelCard
from service.runtime.model_folder import CLASSIFIER_FILE


class NoClassifier(Exception):
    """A version's answers cannot be explained; the message says why."""


class Classifier(NamedTuple):
    """The last layer of a network."""

    weights: np.ndarray  # float32 (classes, C)
    biases: np.ndarray  # float32 (classes,)

    def write(self, folder: Path) -> Path:
        path = folder / CLASSIFIER_FILE
        np.save(path, np.column_stack((self.weights, self.biases)).astype(np.float32))
        return path

    @classmethod
    def read(cls, folder: Path, card: ModelCard) -> Classifier:
        """Maps the file into memory: processes share it, and it is read as far as it is used.

        Raises:
            NoClassifier: the version has none, or none that explains its logits.
        """
        if card.preprocessing.views:
            raise NoClassifier("its logits are means over several views of an image, and a feature map is of one")
        if card.classifier_sha256 is None:
            raise NoClassifier(f"it was published without {CLASSIFIER_FILE}, by an older release")
        try:
            rows = np.load(folder / CLASSIFIER_FILE, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise NoClassifier(f"its {CLASSIFIER_FILE} cannot be read ({error})") from None
        expected = card.architecture.num_classes, card.architecture.channels + 1
        if rows.shape != expected:
            raise NoClassifier(f"its {CLASSIFIER_FILE} has the shape {rows.shape}, not {expected}")
        return cls(rows[:, :-1], rows[:, -1])

    def maps(self, feature_map: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
        """The class activation maps, float32 `(len(class_ids), h, w)`, of one image's feature map `(C, h, w)`."""
        rows = self.weights[np.asarray(class_ids, np.intp)]
        return np.tensordot(rows, feature_map, axes=1).astype(np.float32)


def last_layer(folder: Path, card: ModelCard) -> Classifier | NoClassifier:
    """The last layer of a version, or why there is none."""
    try:
        return Classifier.read(folder, card)
    except NoClassifier as reason:
        return reason
