"""Softmax, sigmoid and top-k."""

from __future__ import annotations

import numpy as np
import pytest

from service.runtime.scores import probabilities_of, sigmoid, softmax, top_k


def test_softmax() -> None:
    probabilities = softmax(np.array([[1000.0, 1000.0, 0.0], [1.0, 2.0, 3.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0.0], [0.0900, 0.2447, 0.6652]], atol=1e-4)


def test_softmax_at_a_temperature() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(softmax(logits, 2.0), softmax(logits / 2), rtol=1e-6)
    assert softmax(logits, 2.0).dtype == np.float32


def test_top_k() -> None:
    first, second = top_k(np.array([[0.0, 5.0, 1.0, 5.0], [3.0, 2.0, 1.0, 0.0]], np.float32), 3)
    assert first.class_ids.tolist() == [1, 3, 2]  # equal ones in the order of their ids
    assert second.class_ids.tolist() == [0, 1, 2]
    assert second.probabilities[0] == pytest.approx(np.exp(3) / np.exp([3, 2, 1, 0]).sum())


@pytest.mark.parametrize("seed", range(20))
def test_the_best_are_those_of_sorting_them_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-5, 5, (3, 40)).astype(np.float32)  # with many equal ones
    for k in (1, 2, 7, 39, 40):
        order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        for found, ids, row in zip(top_k(logits, k), order, softmax(logits), strict=True):
            assert found.class_ids.tolist() == ids.tolist()
            np.testing.assert_array_equal(found.probabilities, row[ids])


def test_temperature_changes_probabilities_and_nothing_else() -> None:
    logits = np.array([[0.0, 5.0, 1.0, 5.0, -2e-8, 2e-8]], np.float32)
    (cold,), (hot,) = top_k(logits, 6), top_k(logits, 6, 1000.0)
    assert cold.class_ids.tolist() == hot.class_ids.tolist() == [1, 3, 2, 5, 0, 4]
    assert hot.probabilities[0] == pytest.approx(np.exp(0.005) / np.exp(logits / 1000).sum())
    assert cold.probabilities[0] > 0.4 > hot.probabilities[0]


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(np.array([[-1000.0, -2.0, 0.0, 2.0, 1000.0]], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1]], rtol=1e-6)


def test_the_kind_of_head_decides() -> None:
    logits = np.array([[0.0, 2.0, -1.0]], np.float32)
    np.testing.assert_array_equal(probabilities_of(logits, "softmax", 2.0), softmax(logits, 2.0))
    np.testing.assert_array_equal(probabilities_of(logits, "sigmoid", 2.0), sigmoid(logits / 2))
    assert probabilities_of(logits, "sigmoid", 2.0).dtype == np.float32
    (best,) = top_k(logits, 2, kind="sigmoid")
    assert best.class_ids.tolist() == [1, 0]
    np.testing.assert_allclose(best.probabilities, [1 / (1 + np.exp(-2)), 0.5], rtol=1e-6)


def test_saturated_probabilities_keep_the_order_of_the_logits() -> None:
    (best,) = top_k(np.array([[100.0, 300.0, 200.0]], np.float32), 3, kind="sigmoid")
    assert best.class_ids.tolist() == [1, 2, 0]
    assert best.probabilities.tolist() == [1, 1, 1]


def test_a_single_logit() -> None:
    (best,) = top_k(np.array([[-1.0]], np.float32), 1, kind="sigmoid")
    assert best.class_ids.tolist() == [0]
    assert best.probabilities[0] == pytest.approx(1 / (1 + np.e))
