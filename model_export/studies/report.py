"""What a study found, in words and figures: a Markdown page and a picture beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from model_export.disk import write_whole
from model_export.evaluation.paper import kind_of, published
from model_export.report.page import environment
from model_export.report.plots import compare, save
from model_export.studies.study import Study
from model_export.studies.table import count
from model_export.training.history import Row

DEEPEST_THAT_GAINS = 110
MARGIN = 0.01  # a difference of errors that one seed does not make by itself

Results = Mapping[str, Mapping[str, Sequence[Row]]]  # panel -> network -> history


def write(
    folder: Path,
    study: Study,
    results: Results,
    *,
    facts: Sequence[tuple[str, str]],
    classes: Sequence[str],
    notes: str,
) -> Path:
    """Writes `<study>.png` and `<study>.md`; returns the path of the page.

    Args:
        facts: what was trained, on what and how, for people.
        classes: of the data set; the paper's figures are shown beside where they compare.
        notes: Markdown that follows the table; may be empty.
    """
    picture = folder / f"{study.name}.png"
    save(compare(results, study.title), picture)
    page = (
        f"## {study.title}\n\nThe paper: {study.expectation}\n\nHere: {verdict(study, results)}\n\n"
        f"![{study.title}]({picture.name})\n\n{table(study, results, classes)}\n{notes}"
        + "".join(f"- {name}: {value}\n" for name, value in (*facts, *environment()))
    )
    path = folder / f"{study.name}.md"
    write_whole(path, page.encode())
    return path


def table(study: Study, results: Results, classes: Sequence[str]) -> str:
    """Each network with its cost and its errors at the end, as Markdown."""
    lines = [
        "| network | parameters | multiply-adds | training error | validation error | the paper's | images/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    kind = kind_of(classes)
    for title, nets in study.panels.items():
        for label, net in nets.items():
            last = results[title][label][-1]
            counts = count(net)
            figure = published(net, "1-crop", kind)
            lines.append(
                f"| {label} | {counts.parameters:,} | {counts.macs / 1e6:.0f} M | {100 * last.train_error:.2f} % "
                f"| {100 * last.val_error:.2f} % | {f'{figure.top1} %' if figure else ''} | {last.images_per_s:.0f} |"
            )
    return "\n".join(lines) + "\n"


def verdict(study: Study, results: Results) -> str:
    """Whether the measured errors show what the paper found, in a sentence that follows from the figures alone."""
    final = {label: rows[-1] for runs in results.values() for label, rows in runs.items()}

    def train(label: str) -> str:
        return f"{100 * final[label].train_error:.1f} %"

    def val(label: str) -> str:
        return f"{100 * final[label].val_error:.1f} %"

    labels = [list(nets) for nets in study.panels.values()]
    if study.name == "degradation":
        (shallow_plain, *_, deep_plain), (shallow, *_, deep) = labels
        worse = final[deep_plain].train_error > final[shallow_plain].train_error + MARGIN
        cured = final[deep].train_error - final[shallow].train_error < 0.5 * (
            final[deep_plain].train_error - final[shallow_plain].train_error
        )
        measured = (
            f"the training error of {shallow_plain} is {train(shallow_plain)} and that of {deep_plain} "
            f"{train(deep_plain)}; of {shallow} {train(shallow)} and of {deep} {train(deep)}."
        )
        if worse and cured:
            return f"it shows: {measured}"
        return f"it does not show at this scale: {measured}"
    if study.name == "shortcuts":
        (plain, *options) = labels[0]
        gap = max(final[o].val_error for o in options) - min(final[o].val_error for o in options)
        far = final[plain].val_error - max(final[o].val_error for o in options)
        ranking = ", ".join(f"{label} {val(label)}" for label in labels[0])
        if far > gap:
            return f"all options are better than none by more than they differ: {ranking} validation error."
        return f"the options do not stand apart from none at this scale: {ranking} validation error."
    ranking = ", ".join(f"{label} {val(label)}" for label in labels[0])
    # The paper's own 1202 layers test worse than 110, and are not counted here.
    trainable = [label for label, net in study.panels[""].items() if net.depth <= DEEPEST_THAT_GAINS]
    harmless = all(
        final[deeper].val_error <= final[shallower].val_error + MARGIN for shallower, deeper in pairwise(trainable)
    )
    if harmless:
        return f"depth does not hurt: {ranking} validation error."
    return f"deeper is not better at this scale: {ranking} validation error."
