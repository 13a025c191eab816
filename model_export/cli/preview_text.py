"""What the `preview` command prints."""

from __future__ import annotations

from collections.abc import Iterator

from model_export.cli.table import text_table
from model_export.evaluation.preview import Answer, Preview
from service.runtime.preprocessing import Preprocessing


def as_text(preview: Preview, top_k: int) -> str:
    """For people.

    Args:
        top_k: how many of the most probable classes to show. If the second answer has another most probable class, that
            one is shown, too.
    """
    card, seen, answers = preview.card, preview.seen, preview.answers
    path, how = seen.path, card.preprocessing
    height, width = seen.decoded.pixels.shape[1:]
    shown = list(dict.fromkeys([*answers[0].classes.class_ids[:top_k], answers[-1].classes.class_ids[0]]))
    rows = [("", *(f"{one.info.provider} {one.info.precision}" for one in answers))]
    rows += [
        (f"{card.labels[class_id].name} ({class_id})", *(f"{one.probabilities[class_id]:.6f}" for one in answers))
        for class_id in shown
    ]
    rows.append(("length of the embedding", *(f"{one.embedding_norm:.4f}" for one in answers)))
    rows.append(("milliseconds", *(f"{1000 * one.seconds:.1f}" for one in answers)))
    return "\n".join(
        [
            f"{preview.file}: {path.format} of {preview.size} bytes, {path.width}x{path.height} pixels, {path.mode}, "
            f"{path.bits} bits a sample",
            f"decoded in {1000 * seen.seconds:.1f} ms{''.join(f', {step}' for step in _steps(preview))}",
            f"{preview.crop}: {width}x{height} pixels, {_fit(how)} ({how.interpolation})"
            f"{', grey' * (how.channels == 1)}",
            f"{card.name}@{card.version} on {_choice(answers[0])}; temperature {card.temperature:g}",
            "",
            text_table(rows, right=range(1, len(rows[0]))),
            "",
            _verdict(preview),
        ]
    )


def as_json(preview: Preview) -> dict[str, object]:
    """For programs: the same, with every class."""
    card, seen, difference = preview.card, preview.seen, preview.difference
    return {
        "file": str(preview.file),
        "bytes": preview.size,
        "decoded": {
            **seen.path._asdict(),
            "upright_width": seen.decoded.width,
            "upright_height": seen.decoded.height,
            "ms": 1000 * seen.seconds,
        },
        "crop": str(preview.crop),
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "model": card.name,
        "version": card.version,
        "temperature": card.temperature,
        "answers": [
            {
                "provider": one.info.provider,
                "precision": one.info.precision,
                "measured": one.info.tuned is not None,
                "ms": 1000 * one.seconds,
                "embedding_norm": one.embedding_norm,
                "predictions": [
                    {"class_id": class_id, "label": card.labels[class_id].name, "probability": probability}
                    for class_id, probability in zip(*(column.tolist() for column in one.classes), strict=True)
                ],
            }
            for one in preview.answers
        ],
        "difference": None
        if difference is None
        else {
            "largest": difference.largest,
            "class_id": difference.class_id,
            "label": card.labels[difference.class_id].name,
            "same_class": difference.same_class,
        },
    }


def _fit(how: Preprocessing) -> str:
    if how.fit == "squash":
        return "the whole picture, squashed"
    if how.fit == "letterbox":
        return "the whole picture between bars"
    return f"the centre of the picture at a shorter side of {how.resize}"


def _steps(preview: Preview) -> Iterator[str]:
    """What is not the same for every file."""
    path, decoded = preview.seen.path, preview.seen.decoded
    if path.passes > 1:
        yield f"in {path.passes} passes"
    if path.divisor > 1:
        yield f"at 1/{path.divisor} of its sides"
    if path.bits > 8:
        window = preview.card.preprocessing.window
        yield f"{path.bits} bits scaled to 8" + (f", from {window[0]} to {window[1]}" if window else "")
    if path.transparency:
        yield "transparency on white"
    if path.orientation != 1:
        yield f"turned upright (EXIF orientation {path.orientation}): {decoded.width}x{decoded.height}"
    if path.lacks_end:
        yield "without an end marker"


def _choice(answer: Answer) -> str:
    """What computed an answer, and whether the service would choose that, too."""
    info = answer.info
    measured = "the fastest measured here" if info.tuned else "not measured here: the first that works"
    return f"{info.provider} in {info.precision} ({measured})"


def _verdict(preview: Preview) -> str:
    difference = preview.difference
    if difference is None:
        info = preview.answers[0].info
        return f"{info.provider} in {info.precision} is all that was asked for: --against names another to compare with"
    best, other = (preview.card.labels[int(one.classes.class_ids[0])].name for one in preview.answers)
    agree = f"both say {best}" if difference.same_class else f"the answers differ: {best}, {other}"
    label = preview.card.labels[difference.class_id].name
    return f"{agree}; the largest difference of a probability is {difference.largest:.6f} ({label})"
