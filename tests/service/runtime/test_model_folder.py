"""The model folder, as a real export publishes it: finding models, reading cards, verifying files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.runtime.model_folder import CardError, explain_empty, model_versions, read_card, verify_digests


def test_only_versions_are_found(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "b/1", "a/1", "b/.staging-x", "b/03", "b/latest", ".hidden/1", "lost+found/1", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "b" / "5").touch()
    assert [(entry.name, entry.version) for entry in model_versions(tmp_path)] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("b", 10),
    ]
    assert list(model_versions(tmp_path / "missing")) == []


def test_unreadable_folders_are_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1", "b/1", "c/1"):
        (tmp_path / name).mkdir(parents=True)
    closed = {tmp_path / "b"}
    real = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self in closed:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [entry.name for entry in model_versions(tmp_path)] == ["a", "c"]
    assert f"Skipping b: {tmp_path / 'b'} cannot be listed (Permission denied)" in caplog.text
    closed.add(tmp_path)
    with pytest.raises(CardError, match=r"cannot be read \(Permission denied\): give this user read permission"):
        list(model_versions(tmp_path))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("nowhere", "there is no folder {at}: fill it with `python -m model_export quickstart --models-dir {at}`"),
        (".", "nothing is published in {at}: fill it with `python -m model_export quickstart --models-dir {at}`"),
        ("file", "{at} is a file, not a model folder: give the folder that `python -m model_export` fills"),
        ("m/resnet8-cifar", "{at} is inside a model folder, as part of the model resnet8-cifar: give {root}/m"),
        ("m/resnet8-cifar/1", "{at} is inside a model folder, as part of the model resnet8-cifar: give {root}/m"),
    ],
)
def test_an_empty_model_folder_is_explained(published: Path, tmp_path: Path, at: str, message: str) -> None:
    published.parent.rename((tmp_path / "m").mkdir() or tmp_path / "m" / "resnet8-cifar")
    (tmp_path / "file").touch()
    assert explain_empty(tmp_path / at) == message.format(at=tmp_path / at, root=tmp_path)


def test_a_missing_card(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.json does not exist: publish"):
        read_card(tmp_path)


def test_an_unreadable_card(published: Path) -> None:
    (published / "card.json").unlink()
    (published / "card.json").mkdir()
    with pytest.raises(CardError, match="cannot be read"):
        read_card(published)


def test_a_renamed_folder_is_refused(published: Path) -> None:
    for other in (published.with_name("2"), published.parent.with_name("renamed") / "1"):
        shutil.copytree(published, other)
        with pytest.raises(CardError, match="is the card of resnet8-cifar 1"):
            read_card(other)


def test_changed_and_missing_files_are_refused(published: Path) -> None:
    card = read_card(published)
    verify_digests(published, card)
    with (published / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xfe")
    with pytest.raises(CardError, match=r"model\.onnx has SHA-256 .* its card says"):
        verify_digests(published, card)
    (published / "model.onnx").unlink()
    with pytest.raises(CardError, match=r"model\.onnx cannot be read \(No such file"):
        verify_digests(published, card)
