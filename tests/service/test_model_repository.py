"""Finding and selecting published models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.errors import AmbiguousModel, UnknownModel
from service.model_repository import Repository, RepositoryError
from tests.support.folders import copied


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    return copied(tiny_dir, tmp_path / "models")


def publish_copy(root: Path, name: str, version: int = 1, source: str = "resnet8-cifar") -> Path:
    """The same model under another name or version."""
    folder = Path(shutil.copytree(root / source / "1", root / name / str(version)))
    card = (folder / "card.json").read_text()
    card = card.replace(f'"name": "{source}"', f'"name": "{name}"').replace('"version": 1,', f'"version": {version},')
    (folder / "card.json").write_text(card)
    return folder


def test_selection(root: Path) -> None:
    repository = Repository(root)
    assert repository.default == "resnet8-cifar"  # the shallowest
    assert repository.select(None, None).name == "resnet8-cifar"
    assert repository.select("resnet18", None).depth == 18
    assert repository.select(None, 18).name == "resnet18"
    assert repository.select("resnet18", 18).name == "resnet18"


def test_a_choice_that_cannot_be_met_names_what_there_is(root: Path) -> None:
    repository = Repository(root)
    with pytest.raises(UnknownModel) as unknown:
        repository.select("resnet50", None)
    assert "resnet18" in unknown.value.advice()
    with pytest.raises(UnknownModel) as unknown:
        repository.select(None, 50)
    assert "resnet18 (depth 18)" in unknown.value.advice()
    with pytest.raises(UnknownModel, match="the name resnet18 and depth 50"):
        repository.select("resnet18", 50)


def test_a_depth_that_several_have_is_the_defaults_or_ambiguous(root: Path) -> None:
    publish_copy(root, "another8")
    with pytest.raises(AmbiguousModel, match="another8, resnet8-cifar"):
        Repository(root, default="resnet18").select(None, 8)
    assert Repository(root, default="another8").select(None, 8).name == "another8"


def test_the_latest_version_is_served(root: Path) -> None:
    for version in (2, 10):
        publish_copy(root, "resnet8-cifar", version)
    assert Repository(root).get("resnet8-cifar").card.version == 10


def test_only_some(root: Path) -> None:
    repository = Repository(root, only=["resnet18"])
    assert list(repository.models) == ["resnet18"]
    assert repository.default == "resnet18"


def test_an_empty_folder_names_the_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RepositoryError, match=f"python -m model_export quickstart --models-dir {folder}"):
            Repository(folder)


def test_names_that_are_not_there(root: Path) -> None:
    with pytest.raises(RepositoryError, match=r"no model resnet99: it holds resnet18, resnet8-cifar"):
        Repository(root, only=["resnet99"])
    with pytest.raises(RepositoryError, match="no model resnet99"):
        Repository(root, default="resnet99")
    with pytest.raises(RepositoryError, match="no model resnet8-cifar"):
        Repository(root, only=["resnet18"], default="resnet8-cifar")


def test_a_model_whose_card_cannot_be_read_does_not_stop_the_others(root: Path) -> None:
    (root / "resnet8-cifar" / "1" / "card.json").write_text("{}")
    repository = Repository(root)
    assert list(repository.models) == ["resnet18"]
    assert "not a valid model card" in repository.unreadable["resnet8-cifar"]
    with pytest.raises(RepositoryError, match="default model cannot be served"):
        Repository(root, default="resnet8-cifar")
    (root / "resnet18" / "1" / "card.json").unlink()
    with pytest.raises(RepositoryError, match="no model can be served"):
        Repository(root)


def test_a_folder_that_cannot_be_read_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def iterdir(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    message = rf"^{root} cannot be read \(Permission denied\): give this user read permission$"
    with pytest.raises(RepositoryError, match=message):
        Repository(root)
