"""The findings of a study: a Markdown page with a table and a verdict, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from model_export.evaluation.reported import recognise_dataset, reported_errors
from model_export.report.page import environment
from model_export.report.plots import compare_trainings, save_png
from model_export.studies.cost import count_cost
from model_export.studies.study import Study
from model_export.training.history import Row
from service.runtime.disk import write_atomically

DEEPEST_THAT_GAINS = 110  # layers; the paper's 1202 test worse than its 110
MARGIN = 0.01  # differences in error up to here may come from the seed

Results = Mapping[str, Mapping[str, Sequence[Row]]]  # panel -> network -> history


def write_findings(
    folder: Path,
    study: Study,
    results: Results,
    *,
    facts: Sequence[tuple[str, str]],
    classes: Sequence[str],
    held_out: str,
    notes: str,
) -> Path:
    """Writes `<study>.png` and `<study>.md`; returns the path of the page.

    Args:
        facts: the settings of the trainings, as names and values.
        classes: of the data set; the paper's errors are shown if they are CIFAR-10's.
        held_out: "test" or "validation", as the images are called that errors are measured on.
        notes: Markdown to follow the table; may be empty.
    """
    plot = folder / f"{study.name}.png"
    save_png(compare_trainings(results, study.title, held_out), plot)
    page = (
        f"## {study.title}\n\nThe paper: {study.expectation}\n\nHere: {verdict(study, results, held_out)}\n\n"
        f"![{study.title}]({plot.name})\n\n{results_table(study, results, classes, held_out)}\n{notes}"
        + "".join(f"- {name}: {value}\n" for name, value in (*facts, *environment()))
    )
    path = folder / f"{study.name}.md"
    write_atomically(path, page.encode())
    return path


def results_table(study: Study, results: Results, classes: Sequence[str], held_out: str) -> str:
    """Each network with its cost and its final errors, as a Markdown table."""
    lines = [
        f"| network | parameters | multiply-adds | training error | {held_out} error | the paper's test error "
        "| images/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    dataset = recognise_dataset(classes)
    for title, nets in study.panels.items():
        for label, net in nets.items():
            last = results[title][label][-1]
            cost = count_cost(net)
            reported = reported_errors(net, "1-crop", dataset)
            lines.append(
                f"| {label} | {cost.parameters:,} | {cost.macs / 1e6:.0f} M | {100 * last.train_error:.2f} % "
                f"| {100 * last.val_error:.2f} % | {f'{reported.top1} %' if reported else ''} "
                f"| {last.images_per_s:.0f} |"
            )
    return "\n".join(lines) + "\n"


def verdict(study: Study, results: Results, held_out: str) -> str:
    """Whether the measured errors reproduce the paper's finding: one sentence, computed from the errors alone."""
    final = {label: rows[-1] for runs in results.values() for label, rows in runs.items()}
    labels = [list(nets) for nets in study.panels.values()]
    if study.name == "degradation":
        return _degradation_verdict(final, *labels)
    ranking = f"{held_out} error {', '.join(f'{label} {100 * final[label].val_error:.1f} %' for label in labels[0])}."
    if study.name == "shortcuts":
        plain, *options = (final[label].val_error for label in labels[0])
        spread = max(options) - min(options)
        if plain - max(options) > spread:
            return f"every option beats none by more than the options differ: {ranking}"
        return f"at this scale the options are not clearly better than none: {ranking}"
    expected_to_gain = [label for label, net in study.panels[""].items() if net.depth <= DEEPEST_THAT_GAINS]
    harmless = all(
        final[deeper].val_error <= final[shallower].val_error + MARGIN
        for shallower, deeper in pairwise(expected_to_gain)
    )
    return f"depth does not hurt: {ranking}" if harmless else f"deeper is not better at this scale: {ranking}"


def _degradation_verdict(final: Mapping[str, Row], plain: Sequence[str], residual: Sequence[str]) -> str:
    """Reproduced if depth raises the training error of plain nets, and that of residual nets less than half as much.

    Args:
        plain, residual: labels, the shallowest first.
    """

    def error(label: str) -> str:
        return f"{100 * final[label].train_error:.1f} % for {label}"

    plain_rise, residual_rise = (final[nets[-1]].train_error - final[nets[0]].train_error for nets in (plain, residual))
    reproduced = plain_rise > MARGIN and residual_rise < 0.5 * plain_rise
    return (
        f"{'reproduced' if reproduced else 'not reproduced at this scale'}: the training error is "
        f"{error(plain[0])} and {error(plain[-1])}; {error(residual[0])} and {error(residual[-1])}."
    )
