"""What a model folder has to serve."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy, remove
from model_export.versions import promote, set_default
from service.published import Listing, Stamp, list_published
from service.runtime.model_folder import CardError
from service.runtime.model_state import Unpublished
from service.settings import Settings
from tests.support.folders import copied


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    """`resnet18` 1 and `resnet8-cifar` 1; no model is the default."""
    folder = copied(tiny_dir, tmp_path / "models")
    (folder / "models.json").unlink()
    return folder


def listed(root: Path, *, at_start: bool = True, **settings: object) -> Listing:
    return list_published(Settings.model_validate({"models_dir": root, **settings}), at_start=at_start)


def wanted(listing: Listing) -> dict[str, list[int]]:
    """The numbers of the candidates, by reference."""
    return {reference: [int(stamp.path.name) for stamp in stamps] for reference, stamps in listing.wanted.items()}


def test_versions_and_aliases_of_all_models(root: Path) -> None:
    for version in (2, 10):
        publish_copy(root, "resnet8-cifar", version)
    promote(root, "resnet8-cifar", 2)
    promote(root, "resnet8-cifar", 10, "canary")
    listing = listed(root)
    assert wanted(listing) == {
        "resnet18": [1],
        "resnet8-cifar": [2, 1],
        "resnet8-cifar@stable": [2, 1],
        "resnet8-cifar@canary": [10],
    }
    assert listing.wanted["resnet18"] == (Stamp.of(root / "resnet18" / "1"),)


def test_what_the_settings_name(root: Path) -> None:
    publish_copy(root, "resnet8-cifar", 2)
    assert wanted(listed(root, models="resnet8-cifar@1, resnet18")) == {
        "resnet8-cifar@1": [1],
        "resnet8-cifar": [1],
        "resnet18": [1],
    }
    assert wanted(listed(root, strict=True)) == {"resnet18": [1], "resnet8-cifar": [2]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": "resnet99"}, "there is no model resnet99: choose from resnet18, resnet8-cifar"),
        ({"models": "resnet18@3"}, "resnet18 has no version 3: choose from 1"),
        ({"models": "resnet18@canary"}, "resnet18 has no alias canary: choose from 1"),
        ({"default_model": "resnet99"}, "the default model resnet99 is not served: resnet18, resnet8-cifar are"),
        ({"models": "resnet18", "default_model": "resnet8-cifar"}, "the default model resnet8-cifar is not served: "),
    ],
)
def test_what_is_named_must_be_there_at_the_start_and_is_left_out_later(
    root: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(Unpublished, match=f"^{message}"):
        listed(root, **settings)
    assert listed(root, at_start=False, **settings).default is None


def test_the_default_is_named_or_the_only_model(root: Path) -> None:
    assert listed(root).default is None
    assert listed(root, models="resnet18").default == "resnet18"
    assert listed(root, default_model="resnet18").default == "resnet18"
    set_default(root, "resnet8-cifar")
    assert listed(root).default == "resnet8-cifar"
    assert listed(root, default_model="resnet18").default == "resnet18"
    assert listed(root, models="resnet18").default == "resnet18"  # the folder's is not served
    remove(root / "resnet8-cifar" / "1")
    assert listed(root).default == "resnet18"


def test_an_only_model_does_not_become_the_default_later(root: Path) -> None:
    remove(root / "resnet8-cifar" / "1")
    assert listed(root, at_start=False).default is None


def test_an_empty_folder_names_the_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CardError, match=f"python -m model_export quickstart --models-dir {folder}"):
            listed(folder)


def test_a_folder_that_cannot_be_read_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def iterdir(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    message = rf"^{root} cannot be read \(Permission denied\): give this user read permission$"
    with pytest.raises(CardError, match=message):
        listed(root)


def test_a_model_that_cannot_be_listed_is_told_apart_from_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def broken(path: Path) -> Iterator[Path]:
        if path.name == "resnet18":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", broken)
    (root / "empty").mkdir()
    listing = listed(root)
    fault = f"{root / 'resnet18'} cannot be listed (Input/output error): give this user read permission"
    assert list(listing.wanted) == ["resnet8-cifar"]
    assert listing.faults == {"resnet18": fault}
    shutil.rmtree(root / "resnet8-cifar")
    with pytest.raises(CardError, match=f"^{re.escape(fault)}$"):  # not "nothing is published"
        listed(root)


def test_a_damaged_state_is_of_its_model_alone(root: Path) -> None:
    (root / "resnet18" / "model.json").write_text("{")
    listing = listed(root, models="resnet8-cifar, resnet18")  # the one that is named is there, as far as is known
    assert list(listing.wanted) == ["resnet8-cifar"]
    assert "model.json is damaged" in listing.faults["resnet18"]
    assert listed(root, models="resnet8-cifar").faults == {}


def test_another_model_does_not_become_the_default_because_the_state_of_that_one_is_damaged(root: Path) -> None:
    (root / "resnet18" / "model.json").write_text("{")
    set_default(root, "resnet18")
    for settings in ({}, {"default_model": "resnet18@stable"}):
        with pytest.raises(CardError, match=r"model\.json is damaged"):
            listed(root, **settings)
    assert listed(root, models="resnet8-cifar").default == "resnet8-cifar"


def test_a_card_that_changes_is_another_version(root: Path) -> None:
    before = listed(root)
    path = root / "resnet18" / "1" / "card.json"
    path.write_text(path.read_text() + "\n")
    after = listed(root)
    assert before.wanted["resnet18"] != after.wanted["resnet18"]
    assert before.wanted["resnet8-cifar"] == after.wanted["resnet8-cifar"]
