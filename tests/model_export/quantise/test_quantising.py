"""From a published fp32 file to the next version, or to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.datasets.base import Data
from model_export.quantise import sensitivity
from model_export.quantise.gate import GateFailed
from model_export.quantise.images import drawn
from model_export.quantise.quantising import METHOD, quantise
from service.card import ModelCard, Precision, Published, published, verify_digests
from service.loading import load_engine

pytestmark = pytest.mark.machine


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_int8_then_fp16(net_1: Published, root: Path, data: Data) -> None:
    before = files(net_1.path)
    card = quantise(net_1, root, data, images=32, limit=0.1)
    assert card.version == 2
    folder = root / "net" / "2"
    assert ModelCard.read(folder) == card
    verify_digests(folder, card)
    assert files(net_1.path) == before  # untouched
    file = card.files["int8"]
    assert (file.file, file.parity) == ("model.int8.onnx", None)
    assert file.bytes == (folder / file.file).stat().st_size < card.files["fp32"].bytes / 2
    assert file.quantisation is not None
    assert (file.quantisation.method, file.quantisation.images) == (METHOD, 32)
    assert file.quantisation.dataset == data.train.name
    assert file.gate is not None
    assert (file.gate.dataset, file.gate.images, file.gate.limit) == (data.val.name, 120, 0.1)
    assert file.gate.accuracy_lost is not None
    assert file.gate.top1_agreement > 0.9
    assert card.files["fp32"] == ModelCard.read(net_1.path).files["fp32"]
    assert "onnxruntime" in card.tools
    for name in ("model.onnx", "self_test.npz"):
        assert (folder / name).samefile(net_1.path / name)  # no room taken twice

    halved = quantise(Published("net", 2, folder), root, data, precisions=["fp16"])
    assert halved.version == 3
    assert list(halved.files) == ["fp32", "int8", "fp16"]
    assert halved.files["int8"] == file
    assert halved.files["fp16"].quantisation is None
    assert halved.files["fp16"].gate is not None
    assert halved.files["fp16"].gate.top1_agreement == 1
    verify_digests(root / "net" / "3", halved)

    again = quantise(Published("net", 3, root / "net" / "3"), root, data, method="entropy", images=32, limit=0.1)
    assert again.version == 4
    assert set(again.files) == {"fp32", "int8", "fp16"}
    assert again.files["int8"].sha256 != file.sha256
    assert again.files["fp16"] == halved.files["fp16"]
    for version in (2, 3, 4):
        verify_digests(root / "net" / str(version), ModelCard.read(root / "net" / str(version)))
    engine = load_engine(root / "net" / "4", again, provider="cpu", precision="int8", threads=1)
    assert engine.compute == "int8"


def test_links_become_copies_where_there_are_none(
    net_1: Published, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, to: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    card = quantise(net_1, root, data, precisions=["fp16"])
    verify_digests(root / "net" / "2", card)
    assert not (root / "net" / "2" / "model.onnx").samefile(net_1.path / "model.onnx")


def test_the_layer_that_int8_cannot_hold_is_in_the_card(
    root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 1)
    outlier = next(entry for entry in published(root) if entry.name == "outlier")
    card = quantise(outlier, root, data, images=32, limit=0.05)
    quantisation = card.files["int8"].quantisation
    assert quantisation is not None
    assert quantisation.float_layers == ("layer2.0.conv2",)


def test_beyond_the_limit_nothing_is_published(root: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a layer that int8 destroys on any processor, and that may not go back to float."""
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 0)
    before = files(root)
    outlier = next(entry for entry in published(root) if entry.name == "outlier")
    unlabelled = drawn(data.val, 120)
    unlabelled.classes = ()  # or accuracy, which random weights may well gain, would decide
    with pytest.raises(GateFailed):
        quantise(outlier, root, Data(data.train, unlabelled), images=32, limit=0.05)
    assert files(root) == before
    assert sorted(path.name for path in (root / "outlier").iterdir()) == ["1"]


def test_both_at_once_are_one_version(net_1: Published, root: Path, data: Data) -> None:
    card = quantise(net_1, root, data, precisions=("int8", "fp16"), images=8, checked=16, limit=0.1)
    assert card.version == 2
    assert list(card.files) == ["fp32", "int8", "fp16"]
    assert ModelCard.read(root / "net" / "2") == card
    verify_digests(root / "net" / "2", card)
    for precision in ("int8", "fp16"):
        gate = card.files[precision].gate  # type: ignore[index]
        assert gate is not None
        assert gate.images == 120


def test_a_file_that_fails_can_be_left_out(root: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 0)
    outlier = next(entry for entry in published(root) if entry.name == "outlier")
    unlabelled = Data(data.train, drawn(data.val, 120))
    unlabelled.val.classes = ()
    told: list[tuple[Precision, Exception]] = []
    options = {"images": 32, "limit": 0.05, "left_out": lambda *what: told.append(what)}
    card = quantise(outlier, root, unlabelled, precisions=("int8", "fp16"), **options)
    assert list(card.files) == ["fp32", "fp16"]
    ((precision, error),) = told
    assert precision == "int8"
    assert isinstance(error, GateFailed)
    with pytest.raises(GateFailed):
        quantise(outlier, root, unlabelled, precisions=("int8",), **options)
    assert sorted(path.name for path in (root / "outlier").iterdir()) == ["1", "2"]


def test_stopped_in_the_middle_nothing_is_left(
    net_1: Published, root: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(root)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_export.publish.flush", stop)
    with pytest.raises(KeyboardInterrupt):
        quantise(net_1, root, data, precisions=["fp16"])
    assert files(root) == before
    assert sorted(path.name for path in (root / "net").iterdir()) == ["1"]


def test_fp32_is_no_lower_precision(net_1: Published, root: Path, data: Data) -> None:
    with pytest.raises(ValueError, match="choose int8 or fp16"):
        quantise(net_1, root, data, precisions=["fp32"])
