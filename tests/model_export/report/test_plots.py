import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from model_export.evaluation.metrics import ReliabilityBins
from model_export.evaluation.rejection import RiskCoverage
from model_export.report.evaluation_plots import EVERY_CLASS, confusion_plot, rejection_plot, reliability_plot
from model_export.report.plots import (
    LABEL_GAP,
    compare_trainings,
    save_png,
    to_png,
    training_curves,
)
from model_export.training.history import Row

HOSTILE = ("$x^$", "a\nb\tc", "\0\x1b", "铅笔", "caf\udce9", "n" * 200, "")


def row(step: int, val_error: float, *, train_error: float = 0.1, lr: float = 0.1, loss: float = 1.0) -> Row:
    return Row(step, step / 100, lr, loss, train_error, loss, val_error, val_error / 4, 1000, step)


def rendered(figure: Figure) -> Image.Image:
    """The figure as an image; raises what matplotlib cannot render."""
    picture = Image.open(io.BytesIO(to_png(figure)))
    assert picture.width == 1000
    return picture


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# --- curves --------------------------------------------------------------------------------------------------------


def test_curves() -> None:
    rows = [row(100, 0.9), row(200, 0.25, train_error=0.2), row(300, 0.3, train_error=0.05, lr=0.01)]
    figure = training_curves(rows, "resnet18")
    error, _, lr = figure.axes
    train, val, best = error.lines
    np.testing.assert_allclose(train.get_ydata(), [10, 20, 5])
    np.testing.assert_allclose(val.get_ydata(), [90, 25, 30])
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (2, 25)
    assert best.get_label() == "best: 25.00% after epoch 2"
    assert (train.get_linestyle(), val.get_linestyle()) == ("--", "-")
    assert val.get_linewidth() > train.get_linewidth()
    assert [axes.get_ylabel() for axes in figure.axes] == ["error (%)", "loss", "learning rate"]
    assert lr.get_yscale() == "log"
    np.testing.assert_allclose(lr.lines[0].get_ydata(), [0.1, 0.1, 0.1, 0.01])
    assert error.get_ylim()[1] > 90
    rendered(figure)


def test_curves_of_one_row_are_visible() -> None:
    figure = training_curves([row(100, 0.5)], "")
    for axes in figure.axes[:2]:
        assert all(line.get_marker() == "o" for line in axes.lines)
    with_dots = np.asarray(rendered(figure).convert("RGB"))
    assert (with_dots == (0, 0x72, 0xB2)).all(axis=2).any()  # the training error's blue


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_curves_of_a_training_that_diverged(bad: float) -> None:
    figure = training_curves([row(100, 0.9), row(200, 0.9, loss=bad)], "")
    assert figure.axes[1].get_ylim() == (0, pytest.approx(1.05))
    rendered(figure)
    rendered(training_curves([row(100, 0.9, loss=bad)], ""))


def test_learning_rates_near_zero() -> None:
    figure = training_curves([row(100, 0.9), row(200, 0.8, lr=1e-12), row(300, 0.8, lr=0)], "")
    assert figure.axes[2].get_ylim()[0] == pytest.approx(0.5e-5)
    rendered(figure)
    rendered(training_curves([row(100, 0.9, lr=0)], ""))


# --- comparisons ---------------------------------------------------------------------------------------------------


def test_compare() -> None:
    runs = {"plain": {"p20": [row(100, 0.9), row(20_000, 0.10)], "p56": [row(100, 0.9), row(20_000, 0.142)]}}
    runs["residual"] = {"r20": [row(100, 0.9), row(20_000, 0.09)], "r56": [row(100, 0.9), row(20_000, 0.0701)]}
    figure = compare_trainings(runs, "Degradation", "test")
    left, right = figure.axes
    assert texts(figure) == ["p20  10.0", "p56  14.2", "r20  9.0", "r56  7.0"]
    assert [axes.get_title() for axes in figure.axes] == ["plain", "residual"]
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[1] == pytest.approx(2.2 * 14.2)  # the ends fill the panel, not the first iterations
    for axes in figure.axes:
        assert [line.get_linestyle() for line in axes.lines] == ["--", "-"] * 2
        colours = [to_hex(line.get_color()) for line in axes.lines]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert [to_hex(text.get_color()) for text in axes.texts] == colours[::2]
    assert [line.get_color() for line in left.lines] == [line.get_color() for line in right.lines]
    np.testing.assert_allclose(left.lines[3].get_ydata(), [90, 14.2])
    np.testing.assert_allclose(left.lines[2].get_ydata(), [10, 10])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "test"]
    rendered(figure)
    assert [tick.get_text() for tick in left.get_xticklabels()][:2] == ["0", "4k"]


def label_heights(*errors: float) -> list[float]:
    runs = {str(i): [row(100, error, train_error=0)] for i, error in enumerate(errors)}
    figure = compare_trainings({"": runs}, "", "validation")
    return [text.xy[1] for text in figure.axes[0].texts]


def test_labels_at_the_ends_do_not_cover_each_other() -> None:
    heights = label_heights(0.07, 0.0701, 0.0702, 0.2, 0.0699)
    assert np.diff(sorted(heights)).min() >= LABEL_GAP - 1e-9
    assert np.argsort(heights).tolist() == [4, 0, 1, 2, 3]
    alone = label_heights(0.07, 0.2)
    assert np.mean([heights[i] for i in (0, 1, 2, 4)]) == pytest.approx(alone[0], abs=1e-3)  # centred on their lines
    assert heights[3] == alone[1]


def test_labels_of_perfect_networks_stay_in_the_panel() -> None:
    heights = label_heights(0, 0, 0)
    assert min(heights) >= LABEL_GAP / 2
    assert np.diff(sorted(heights)).min() >= LABEL_GAP - 1e-9


def test_more_networks_than_colours() -> None:
    rendered(compare_trainings({"many": {f"net {i}": [row(100, 0.1 * i)] for i in range(10)}}, "", "validation"))


def test_a_net_that_never_learned_is_visible() -> None:
    figure = compare_trainings(
        {"": {"plain-110": [row(100, 0.9, train_error=0.9), row(200, 0.6, train_error=0.62)]}}, "", "validation"
    )
    assert figure.axes[0].get_ylim()[1] >= 62


def test_names_of_any_content() -> None:
    figure = compare_trainings({name: {name: [row(100, 0.5)]} for name in HOSTILE[:3]}, HOSTILE[4], "validation")
    assert texts(figure)[:2] == ["$x^$  50.0", "a b c  50.0"]
    rendered(figure)


# --- evaluations ---------------------------------------------------------------------------------------------------


def test_confusion() -> None:
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    figure = confusion_plot(matrix, ["cat", "dog", "fox"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array().filled(np.nan), [[80, 20, 0], [np.nan] * 3, [25, 0, 75]])
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "8"), ((1, 0), "2"), ((0, 2), "1"), ((2, 2), "3"),
    }  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "fox"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    rendered(figure)


@pytest.mark.parametrize(
    ("classes", "counts", "names"), [(15, True, True), (16, False, True), (40, False, True), (41, False, False)]
)
def test_large_matrices_omit_counts_then_names(classes: int, counts: bool, names: bool) -> None:
    figure = confusion_plot(np.eye(classes, dtype=np.int64), [f"class {i}" for i in range(classes)])
    assert (len(texts(figure)) == classes) is counts
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ("class 1" in labels) is names


def test_a_thousand_classes() -> None:
    assert rendered(confusion_plot(np.eye(1000, dtype=np.int64), [""] * 1000)).height < 1000


def test_class_names_of_any_content() -> None:
    figure = confusion_plot(np.eye(len(HOSTILE), dtype=np.int64), HOSTILE)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["$x^$", "a b c", "\0\x1b", "铅笔", "caf?", "n" * 21 + "…", ""]
    rendered(figure)


def test_reliability() -> None:
    nan = float("nan")
    bins = ReliabilityBins(np.array([nan, 0.4, nan, 0.9]), np.array([nan, 0.3, nan, 1.0]), np.array([0, 10, 0, 1234]))
    figure = reliability_plot(bins)
    shares, images = figure.axes
    assert [(bar.get_x(), bar.get_height()) for bar in shares.patches] == [(0.25, 30), (0.75, 100)]
    np.testing.assert_allclose(shares.lines[0].get_xydata(), [[0.4, 30], [0.9, 100]])
    np.testing.assert_allclose(shares.lines[1].get_xydata(), [[0, 0], [1, 100]])
    assert [text.get_text() for text in images.texts] == ["10", "1,234"]
    assert [shares.get_ylabel(), images.get_ylabel()] == ["accuracy (%)", "images"]
    rendered(figure)
    of_sigmoid = reliability_plot(bins, names=EVERY_CLASS)
    assert [axes.get_ylabel() for axes in of_sigmoid.axes] == ["present (%)", "classes x images"]


# --- files ---------------------------------------------------------------------------------------------------------


def test_save(tmp_path: Path) -> None:
    rows = [row(100, 0.9), row(200, 0.8)]
    save_png(training_curves(rows, "x"), tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes() == to_png(training_curves(rows, "x"))
    with pytest.raises(FileNotFoundError):
        save_png(training_curves(rows, "x"), tmp_path / "none" / "curves.png")


def test_rejection() -> None:
    curve = RiskCoverage(np.array([0.9, 0.5, 0.1]), np.array([0.2, 0.6, 1.0]), np.array([0.0, 0.1, 0.3]))
    (axes,) = rejection_plot(curve).axes
    error, threshold = axes.lines
    np.testing.assert_allclose(error.get_xydata(), [[20, 0], [60, 10], [100, 30]])
    np.testing.assert_allclose(threshold.get_ydata(), [90, 50, 10])
