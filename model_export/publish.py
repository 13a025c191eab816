"""From a network with its weights to a published folder, all or nothing."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from model_export.disk import flush
from model_export.onnx_export import export_onnx
from model_export.parity import Reference, check_parity, make_self_test
from model_export.sight import check_sight
from model_export.weights import Loaded
from service.card import CARD_FILE, MODEL_FILES, NAME_PATTERN, SELF_TEST_FILE, ModelCard, ModelFile, published, sha256
from service.engine import DynamicEngine
from service.providers import open_session, usable_cores

log = logging.getLogger(__name__)


def publish(loaded: Loaded, root: Path, name: str | None = None) -> ModelCard:
    """Exports, proves and publishes a network as the next version of `name`, `root/<name>/<version>/`.

    The folder is written under a temporary name, flushed to disk and renamed: a half-written model is never seen.

    Args:
        name: by default the architecture's, such as `resnet50`.

    Raises:
        ParityFailed, ExportError: nothing is published.
        ValueError: the name is not one.
        OSError: the folder cannot be written.
    """
    net, preprocessing = loaded.net, loaded.preprocessing
    name = name or net.architecture.name
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"{name!r} is no name for a model: use lower-case letters, digits, '.', '_' and '-'")
    model_root = root / name
    with staging_folder(model_root) as staging:
        onnx_path = staging / MODEL_FILES["fp32"]
        log.info("%s: exporting to ONNX", name)
        graph = loaded.serving_graph()
        export_onnx(graph, preprocessing.crop, onnx_path)

        log.info("%s: comparing with PyTorch", name)
        # Parity is proven on the portable provider; each server proves its own with the self-test.
        engine = DynamicEngine(open_session(onnx_path, "cpu", threads=usable_cores()))
        reference = Reference(graph, preprocessing)
        parity = check_parity(reference, engine)
        log.info(
            "%s: largest difference of a logit %.2g; top-1 agreement %.1f %%, top-5 %.1f %%",
            name,
            parity.max_abs_difference,
            100 * parity.top1_agreement,
            100 * parity.top5_agreement,
        )
        check_sight(engine, preprocessing)
        make_self_test(reference).write(staging)
        card = ModelCard(
            name=name,
            version=next_version(root, name),
            created=datetime.now(UTC).replace(microsecond=0),
            architecture=net.architecture,
            parameters=sum(parameter.numel() for parameter in net.parameters()),
            weights=loaded.weights,
            preprocessing=preprocessing,
            labels=loaded.labels,
            files={
                "fp32": ModelFile(
                    file=onnx_path.name, sha256=sha256(onnx_path), bytes=onnx_path.stat().st_size, parity=parity
                )
            },
            self_test_sha256=sha256(staging / SELF_TEST_FILE),
            accuracy=loaded.accuracy,
            tools=tool_versions(),
        )
        return publish_folder(staging, model_root, card)


@contextmanager
def staging_folder(model_root: Path) -> Iterator[Path]:
    """A folder for the files of a version, under a name that is none; whatever `publish_folder` leaves is removed."""
    model_root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=model_root))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # unless a version is in it
            model_root.rmdir()


def next_version(root: Path, name: str) -> int:
    """One more than the highest published version; 1 for the first."""
    return max((entry.version for entry in published(root) if entry.name == name), default=0) + 1


def tool_versions() -> dict[str, str]:
    """What made the file, for the card."""
    packages = ("torch", "onnx", "onnxscript", "pillow", "resnet-service")
    return {"python": platform.python_version(), "numpy": np.__version__} | {
        package: importlib.metadata.version(package) for package in packages
    }


def publish_folder(staging: Path, model_root: Path, card: ModelCard) -> ModelCard:
    """Writes the card and renames the folder to its version; to the next one if somebody else has just taken it.

    Returns:
        The card as it was written.
    """
    while True:
        (staging / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
        for path in (*staging.iterdir(), staging):
            mode = 0o755 if path.is_dir() else 0o644  # mkdtemp made it private; the service runs as another user
            if stat.S_IMODE(path.stat().st_mode) != mode:  # a link may lead to somebody else's file
                path.chmod(mode)
            flush(path)
        try:
            staging.rename(model_root / str(card.version))
        except OSError:
            if not (model_root / str(card.version)).exists():
                raise
            card = card.model_copy(update={"version": card.version + 1})
            continue
        flush(model_root)
        return card
