"""Finding and selecting published models."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy, remove
from service.errors import AmbiguousModel, UnknownModel
from service.model_repository import Changes, Repository, RepositoryError, Status
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import CardError, read_card
from tests.support.folders import copied


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    return copied(tiny_dir, tmp_path / "models")


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


def compared(repository: Repository) -> tuple[list[str], list[str]]:
    """Candidates and removed models of one look, each as `name version`."""
    changes: Changes = repository.compare(repository.look())
    candidates, removed = ([f"{model.name} {model.card.version}" for model in models] for models in changes)
    return candidates, removed


def fail(repository: Repository, name: str) -> None:
    repository.candidates[name].status = Status("failed", reason="it was tried")


def test_a_new_version_and_a_new_model_are_candidates_once(root: Path) -> None:
    repository = Repository(root)
    assert compared(repository) == ([], [])
    publish_copy(root, "resnet8-cifar", 2)
    publish_copy(root, "another8")
    assert compared(repository) == (["another8 1", "resnet8-cifar 2"], [])
    assert compared(repository) == ([], [])  # they are being loaded
    assert repository.models["resnet8-cifar"].card.version == 1


def test_a_failed_version_is_not_tried_again_until_it_changes_or_somebody_asks(root: Path) -> None:
    repository = Repository(root)
    folder = publish_copy(root, "resnet8-cifar", 2)
    for _ in range(3):
        assert compared(repository) == (["resnet8-cifar 2"], [])
        fail(repository, "resnet8-cifar")
        assert compared(repository) == ([], [])
        repository.retry()
    assert compared(repository) == (["resnet8-cifar 2"], [])
    fail(repository, "resnet8-cifar")
    (folder / "card.json").write_text((folder / "card.json").read_text() + "\n")
    assert compared(repository) == (["resnet8-cifar 2"], [])


def test_a_version_that_answers_is_the_one_that_others_are_compared_with(root: Path) -> None:
    repository = Repository(root)
    second = publish_copy(root, "resnet8-cifar", 2)
    compared(repository)
    assert repository.put(repository.candidates["resnet8-cifar"]).card.version == 1  # type: ignore[union-attr]
    assert (repository.get("resnet8-cifar").card.version, repository.candidates) == (2, {})
    assert compared(repository) == ([], [])
    remove(second)
    assert compared(repository) == (["resnet8-cifar 1"], [])


def test_a_failed_version_that_is_removed_is_forgotten(root: Path) -> None:
    repository = Repository(root)
    second = publish_copy(root, "resnet8-cifar", 2)
    compared(repository)
    fail(repository, "resnet8-cifar")
    remove(second)
    assert compared(repository) == ([], [])
    assert repository.candidates == {}


def test_a_card_that_cannot_be_read_is_shown_and_read_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = Repository(root)
    folder = publish_copy(root, "resnet8-cifar", 2, change=lambda card: card.update(schema_version=2))
    for _ in range(3):
        assert compared(repository) == ([], [])
    assert "schema_version" in repository.unreadable["resnet8-cifar"]
    assert len(caplog.messages) == 1
    assert repository.get("resnet8-cifar").card.version == 1
    remove(folder)
    assert compared(repository) == ([], [])
    assert repository.unreadable == {}


def test_a_removed_model_is_told_at_the_second_look_and_the_default_stays(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository = Repository(root, default="resnet8-cifar")
    remove(root / "resnet18" / "1")
    assert compared(repository) == ([], [])
    assert compared(repository) == ([], ["resnet18 1"])
    repository.remove(repository.get("resnet18"))
    publish_copy(root, "another8")
    remove(root / "resnet8-cifar" / "1")
    for _ in range(3):
        _, removed = compared(repository)
        assert removed == []
    assert caplog.messages == [
        "resnet8-cifar has been removed from the model folder; as the default model, it is still served"
    ]


def test_a_model_that_is_away_for_one_look_is_not_removed(root: Path) -> None:
    repository = Repository(root, default="resnet8-cifar")
    away = (root / "resnet18").rename(root.with_name("away"))
    assert compared(repository) == ([], [])
    away.rename(root / "resnet18")
    assert compared(repository) == ([], [])
    (root / "resnet18").rename(away)
    assert compared(repository) == ([], [])


def test_a_model_that_cannot_be_listed_is_not_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(root, default="resnet8-cifar")
    listed = Path.iterdir

    def broken(path: Path) -> Iterator[Path]:
        if path.name == "resnet18":
            raise OSError(errno.EIO, "Input/output error")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", broken)
    for _ in range(3):
        assert compared(repository) == ([], [])


def test_a_card_that_changes_while_it_is_read_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(root)
    folder = publish_copy(root, "another8")

    def read_and_change(path: Path) -> ModelCard:
        card = read_card(path)
        monkeypatch.undo()
        (folder / "card.json").write_text((folder / "card.json").read_text() + "\n")
        return card

    monkeypatch.setattr("service.model_repository.read_card", read_and_change)
    assert compared(repository) == (["another8 1"], [])
    assert compared(repository) == (["another8 1"], [])
    assert compared(repository) == ([], [])


def test_an_empty_folder_removes_nothing(root: Path) -> None:
    """A volume that is not mounted at the moment looks like one."""
    repository = Repository(root)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(CardError):
        repository.look()
    root.mkdir()
    with pytest.raises(CardError):
        repository.look()
    assert list(repository.models) == ["resnet18", "resnet8-cifar"]


def test_only_the_named_models_are_followed(root: Path) -> None:
    repository = Repository(root, only=["resnet18"])
    publish_copy(root, "another8")
    assert compared(repository) == ([], [])
    publish_copy(root, "resnet18", 2, source="resnet18")
    assert compared(repository) == (["resnet18 2"], [])
