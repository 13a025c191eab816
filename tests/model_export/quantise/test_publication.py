"""From a published fp32 file to the next version, all or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.export.onnx_export import ExportError
from model_export.quantise import accuracy_gate, publication, sensitivity
from model_export.quantise.accuracy_gate import GateFailed
from model_export.quantise.images import sample
from model_export.quantise.publication import CALIBRATION_METHOD, publish_quantised
from service.runtime.choices import FilePrecision
from service.runtime.engine import DynamicEngine
from service.runtime.loading import load_engine
from service.runtime.model_folder import CARD_FILE, ModelVersion, model_versions, read_card, verify_digests
from service.runtime.self_test import SelfTest


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.machine
def test_int8_then_fp16(net_version: ModelVersion, root: Path, data: Data) -> None:
    before = files(net_version.path)
    card = publish_quantised(net_version, data, calibration_images=32, limit=0.1)
    assert card.version == 2
    folder = root / "net" / "2"
    assert read_card(folder) == card
    verify_digests(folder, card)
    assert files(net_version.path) == before  # untouched
    file = card.files["int8"]
    assert (file.file, file.parity) == ("model.int8.onnx", None)
    assert file.bytes == (folder / file.file).stat().st_size < card.files["fp32"].bytes / 2
    assert file.quantisation is not None
    assert (file.quantisation.method, file.quantisation.images) == (CALIBRATION_METHOD, 32)
    assert file.quantisation.dataset == data.train.name
    assert file.gate is not None
    assert (file.gate.dataset, file.gate.images, file.gate.limit) == (data.val.name, 120, 0.1)
    assert file.gate.accuracy_lost is not None
    assert file.gate.top1_agreement > 0.9
    assert card.files["fp32"] == read_card(net_version.path).files["fp32"]
    assert "onnxruntime" in card.tools
    for name in ("classifier.npy", "model.onnx", "self_test.npz"):
        assert (folder / name).samefile(net_version.path / name)  # no disk space used twice

    halved = publish_quantised(ModelVersion("net", 2, folder), data, precisions=["fp16"])
    assert halved.version == 3
    assert list(halved.files) == ["fp32", "int8", "fp16"]
    assert halved.files["int8"] == file
    assert halved.files["fp16"].quantisation is None
    assert halved.files["fp16"].gate is not None
    assert halved.files["fp16"].gate.top1_agreement == 1
    verify_digests(root / "net" / "3", halved)

    again = publish_quantised(
        ModelVersion("net", 3, root / "net" / "3"), data, method="entropy", calibration_images=32, limit=0.1
    )
    assert again.version == 4
    assert set(again.files) == {"fp32", "int8", "fp16"}
    assert again.files["int8"].sha256 != file.sha256
    assert again.files["fp16"] == halved.files["fp16"]
    for version in (2, 3, 4):
        verify_digests(root / "net" / str(version), read_card(root / "net" / str(version)))
    engine = load_engine(root / "net" / "4", again, provider="cpu", precision="int8", threads=1)
    assert engine.info.precision == "int8"


@pytest.mark.machine
def test_bf16_needs_no_file_but_a_gate(net_version: ModelVersion, root: Path, data: Data) -> None:
    card = publish_quantised(net_version, data, precisions=["bf16"], limit=0.05)
    folder = root / "net" / "2"
    assert read_card(folder) == card
    verify_digests(folder, card)
    assert sorted(files(folder)) == ["card.json", "classifier.npy", "model.onnx", "self_test.npz"]
    assert (folder / "model.onnx").samefile(net_version.path / "model.onnx")
    before = read_card(net_version.path).files["fp32"]
    assert before.bf16 is None
    gate = card.gate("bf16")
    assert gate is not None
    assert card.files == {"fp32": before.model_copy(update={"bf16": gate})}
    assert (gate.dataset, gate.images, gate.limit) == (data.val.name, 120, 0.05)
    assert gate.top1_agreement >= 0.9

    both = publish_quantised(ModelVersion("net", 2, folder), data, precisions=["fp16", "bf16"], limit=0.05)
    assert set(both.files) == {"fp32", "fp16"}
    assert both.gate("bf16") == gate


@pytest.mark.machine
def test_bf16_that_loses_too_much_publishes_nothing(
    net_version: ModelVersion, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_sign(fp32: onnx.ModelProto) -> onnx.ModelProto:
        weights = next(constant for constant in fp32.graph.initializer if constant.name == "net.fc.weight")
        weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
        return fp32

    monkeypatch.setattr(publication, "rounded_to_bf16", other_sign)
    monkeypatch.setattr(SelfTest, "read", lambda folder: None)
    monkeypatch.setattr(DynamicEngine, "self_test", lambda engine, stored: 0.0)
    monkeypatch.setattr(accuracy_gate, "SERVED_BY", {"bf16": ()})  # on the CPU provider, on any machine
    with pytest.raises(GateFailed, match=r"more was lost than the 1 points allowed \(cpu: "):
        publish_quantised(net_version, sample_unlabelled(data), precisions=["bf16"])
    assert [entry.version for entry in model_versions(root) if entry.name == "net"] == [1]


def sample_unlabelled(data: Data) -> Data:
    """The same images without classes."""
    val = sample(data.val, 120)
    val.classes = ()
    return Data(data.train, val)


def test_files_are_copied_where_hard_links_are_impossible(
    net_version: ModelVersion, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, to: object) -> None:
        raise PermissionError("no hard links")

    monkeypatch.setattr("os.link", refuse)
    card = publish_quantised(net_version, data, precisions=["fp16"])
    verify_digests(root / "net" / "2", card)
    assert not (root / "net" / "2" / "model.onnx").samefile(net_version.path / "model.onnx")


@pytest.mark.arithmetic
def test_the_layer_that_int8_ruins_is_in_the_card(root: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 1)
    outlier = next(entry for entry in model_versions(root) if entry.name == "outlier")
    card = publish_quantised(outlier, data, calibration_images=32, limit=0.05)
    quantisation = card.files["int8"].quantisation
    assert quantisation is not None
    assert quantisation.float_layers == ("layer2.0.conv2",)


@pytest.mark.arithmetic
def test_beyond_the_limit_nothing_is_published(root: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a layer that int8 ruins on any processor and that must not go back to float."""
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 0)
    before = files(root)
    outlier = next(entry for entry in model_versions(root) if entry.name == "outlier")
    unlabelled = sample(data.val, 120)
    unlabelled.classes = ()  # else accuracy would decide, which random weights may gain
    with pytest.raises(GateFailed):
        publish_quantised(outlier, Data(data.train, unlabelled), calibration_images=32, limit=0.05)
    assert files(root) == before
    assert sorted(path.name for path in (root / "outlier").iterdir() if path.is_dir()) == ["1"]


@pytest.mark.arithmetic
def test_both_precisions_at_once_are_one_version(net_version: ModelVersion, root: Path, data: Data) -> None:
    card = publish_quantised(
        net_version, data, precisions=("int8", "fp16"), calibration_images=8, sensitivity_images=16, limit=0.1
    )
    assert card.version == 2
    assert list(card.files) == ["fp32", "int8", "fp16"]
    assert read_card(root / "net" / "2") == card
    verify_digests(root / "net" / "2", card)
    for precision in ("int8", "fp16"):
        gate = card.files[precision].gate  # type: ignore[index]
        assert gate is not None
        assert gate.images == 120


@pytest.mark.arithmetic
def test_a_file_that_fails_can_be_left_out(root: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 0)
    outlier = next(entry for entry in model_versions(root) if entry.name == "outlier")
    unlabelled = Data(data.train, sample(data.val, 120))
    unlabelled.val.classes = ()
    failures: list[tuple[FilePrecision, Exception]] = []
    options = {"calibration_images": 32, "limit": 0.05, "on_failure": lambda *what: failures.append(what)}
    card = publish_quantised(outlier, unlabelled, precisions=("int8", "fp16"), **options)
    assert list(card.files) == ["fp32", "fp16"]
    ((precision, error),) = failures
    assert precision == "int8"
    assert isinstance(error, GateFailed)
    with pytest.raises(GateFailed):
        publish_quantised(outlier, unlabelled, precisions=("int8",), **options)
    assert sorted(path.name for path in (root / "outlier").iterdir() if path.is_dir()) == ["1", "2"]


def test_an_interrupt_leaves_nothing_behind(
    net_version: ModelVersion, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(root)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_export.export.publish.flush_readable", stop)
    with pytest.raises(KeyboardInterrupt):
        publish_quantised(net_version, data, precisions=["fp16"])
    assert files(root) == before
    assert sorted(path.name for path in (root / "net").iterdir() if path.is_dir()) == ["1"]


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ("other", r"net@1 has other weights than the latest version, 2, which clients get.* Run `promote net@2` first"),
        ("same", r"net@2 was published in the meantime, with the same weights: .* Run the command again, with net@2"),
    ],
)
def test_a_version_published_in_the_meantime_is_not_replaced(
    net_version: ModelVersion, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch, weights: str, fault: str
) -> None:
    """By its older weights, or by a version that lacks the file that another `quantize` has added."""
    compare = accuracy_gate.compare
    later = root / "net" / "2"

    def published_in_the_meantime(*args: Any) -> list[accuracy_gate.Comparison]:
        shutil.copytree(net_version.path, later)
        card = read_card(net_version.path).model_copy(update={"version": 2})
        if weights == "other":
            fp32 = card.files["fp32"].model_copy(update={"sha256": "0" * 64})
            card = card.model_copy(update={"files": {"fp32": fp32}})
        (later / CARD_FILE).write_text(card.to_json())
        return compare(*args)

    monkeypatch.setattr(accuracy_gate, "compare", published_in_the_meantime)
    with pytest.raises(InputError, match=fault):
        publish_quantised(net_version, data, precisions=["fp16"])
    assert [entry.version for entry in model_versions(root) if entry.name == "net"] == [1, 2]
    assert list((root / "net").glob(".*")) == []

    monkeypatch.undo()  # version 1 may still be started from on purpose, if it has the weights that clients get
    if weights == "same":
        assert publish_quantised(net_version, data, precisions=["fp16"]).version == 3


def test_if_no_file_can_be_made_nothing_is_compared(
    net_version: ModelVersion, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ExportError("no")

    monkeypatch.setattr(publication, "to_fp16", fail)
    monkeypatch.setattr(accuracy_gate, "compare", lambda *args: pytest.fail("compared"))
    with pytest.raises(ExportError):
        publish_quantised(net_version, data, precisions=["fp16"], on_failure=lambda *what: None)


def test_fp32_is_refused(net_version: ModelVersion, root: Path, data: Data) -> None:
    with pytest.raises(ValueError, match="choose int8, fp16 or bf16"):
        publish_quantised(net_version, data, precisions=["fp32"])
