"""Publishes a network as the next version in the model folder, all or nothing."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from model_export.export.collapse_gate import check_collapse
from model_export.export.onnx_export import export_onnx
from model_export.export.onnx_metadata import onnx_metadata
from model_export.export.parity_gate import Reference, check_parity, make_self_test
from model_export.nets.resnet import ResNet
from model_export.software import commit, tool_versions
from model_export.versions import keep_default, remember_version
from model_export.weights.loading import Loaded
from service.runtime.class_activation import Classifier
from service.runtime.disk import flush, flush_readable, link, locked
from service.runtime.engine import DynamicEngine
from service.runtime.machine import usable_cores
from service.runtime.model_card import NAME_PATTERN, RESERVED_NAMES, ModelCard, ModelFile
from service.runtime.model_folder import (
    CARD_FILE,
    CLASSIFIER_FILE,
    MODEL_FILES,
    SELF_TEST_FILE,
    ModelVersion,
    model_versions,
    read_card,
    sha256,
)
from service.runtime.model_state import read_state
from service.runtime.providers import open_session

log = logging.getLogger(__name__)


def publish(loaded: Loaded, root: Path, name: str | None = None) -> ModelCard:
    """Exports a network, passes it through both gates and publishes it as `root/<name>/<version>/`.

    The folder is written under a temporary name, flushed to disk and renamed: no reader sees a half-written model.

    Args:
        name: by default the architecture's, such as `resnet50`.

    Raises:
        ExportError, ParityFailed, Collapsed: nothing is published.
        ValueError: the name is not valid, or the head does not fit the number of classes.
        OSError: the folder cannot be written.
    """
    net, preprocessing, head = loaded.net, loaded.preprocessing, loaded.head
    name = name or net.architecture.name
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"{name!r} is not a valid model name: use lower-case letters, digits, '.', '_' and '-', and begin with a "
            "letter or digit"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"no model can be called {name}, because paths of the service end in it: choose another name")
    head.check(net.architecture.num_classes)
    model_root = root / name
    with staging_folder(model_root) as staging:
        onnx_path = staging / MODEL_FILES["fp32"]
        log.info("%s: exporting to ONNX", name)
        graph = loaded.serving_graph()
        export_onnx(graph, preprocessing.shape, onnx_path, onnx_metadata(loaded, name))

        log.info("%s: comparing with PyTorch", name)
        # The CPU provider runs everywhere; each server checks its own provider with the self-test.
        engine = DynamicEngine.of(open_session(onnx_path, "cpu", threads=usable_cores()))
        reference = Reference(graph, preprocessing)
        parity = check_parity(reference, engine)
        log.info(
            "%s: logits differ by at most %.2g; top-1 agreement %.1f %%, top-5 %.1f %%",
            name,
            parity.max_abs_difference,
            100 * parity.top1_agreement,
            100 * parity.top5_agreement,
        )
        check_collapse(engine, preprocessing, head)
        make_self_test(reference).write(staging)
        card = ModelCard(
            name=name,
            version=next_version(root, name),
            created=datetime.now(UTC).replace(microsecond=0),
            architecture=net.architecture,
            parameters=sum(parameter.numel() for parameter in net.parameters()),
            weights=loaded.weights,
            training=loaded.training,
            preprocessing=preprocessing,
            labels=loaded.labels,
            head=head,
            files={
                "fp32": ModelFile(
                    file=onnx_path.name, sha256=sha256(onnx_path), bytes=onnx_path.stat().st_size, parity=parity
                )
            },
            self_test_sha256=sha256(staging / SELF_TEST_FILE),
            classifier_sha256=sha256(_last_layer(net).write(staging)),
            accuracy=loaded.accuracy,
            tools=tool_versions(),
            commit=commit(),
        )
        return publish_folder(staging, model_root, card)


def publish_changed(
    version: ModelVersion,
    changes: Mapping[str, object],
    new_files: Sequence[Path] = (),
    *,
    check: Callable[[], object],
) -> ModelCard:
    """Publishes the next version of a model: the files of this one, by hard link, under a changed card.

    Args:
        changes: fields of the card, by name. `files` names those that are kept, and the new ones.
        new_files: outside the model folder; they are copied.
        check: as for `publish_folder`: whether this version is still the one to start from.

    Returns:
        The card as written.

    Raises:
        CardError: the version's card cannot be read.
        OSError: the folder cannot be written; nothing is published.
        and what `check` raises.
    """
    model_root = version.path.parent
    number = {"version": next_version(model_root.parent, version.name)}
    created = {"created": datetime.now(UTC).replace(microsecond=0)}
    card = read_card(version.path).model_copy(update={**changes, **number, **created})
    own = {path.name for path in new_files}
    with staging_folder(model_root) as staging:
        for path in new_files:
            shutil.copyfile(path, staging / path.name)
        for name in (*(entry.file for entry in card.files.values()), SELF_TEST_FILE, CLASSIFIER_FILE):
            if name not in own and (name != CLASSIFIER_FILE or (version.path / name).exists()):
                link(version.path / name, staging / name)
        return publish_folder(staging, model_root, card, check)


def _last_layer(net: ResNet) -> Classifier:
    weights, biases = (tensor.detach().numpy() for tensor in (net.fc.weight, net.fc.bias))
    return Classifier(weights, biases)


@contextmanager
def staging_folder(model_root: Path) -> Iterator[Path]:
    """A folder for a version's files, under a name that no reader takes for a version; removed unless published."""
    staging = None
    while staging is None:
        model_root.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another export's end has removed the folder, which was empty for a moment
            staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=model_root))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # it holds a version
            model_root.rmdir()


def next_version(root: Path, name: str) -> int:
    """The highest number that a version of the model has or had, plus 1; 1 if there was none.

    Raises:
        CardError: `model.json` cannot be read.
    """
    there = (entry.version for entry in model_versions(root) if entry.name == name)
    return max([read_state(root / name).last_version, *there]) + 1


def publish_folder(
    staging: Path, model_root: Path, card: ModelCard, check: Callable[[], object] = lambda: None
) -> ModelCard:
    """Writes the card and renames the folder to its version, or to a later one if another process took that.

    Args:
        check: called while no other process can publish, right before the folder is renamed. What it raises is raised,
            and nothing is published.

    Returns:
        The card as written.
    """
    while True:
        (staging / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
        flush_readable(staging)
        try:
            with locked(model_root):
                check()
                staging.rename(model_root / str(card.version))
        except OSError:
            if not (model_root / str(card.version)).exists():
                raise
            card = card.model_copy(update={"version": card.version + 1})
            continue
        flush(model_root)
        remember_version(model_root, card.version)
        keep_default(model_root.parent, card.name)
        return card
