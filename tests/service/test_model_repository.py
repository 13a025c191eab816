"""Which version a request means, while versions come, fail and go."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy, remove
from model_export.versions import promote, set_default
from service.errors import AmbiguousModel, ModelNotNamed, UnknownModel
from service.model_repository import Change, Model, Repository, RepositoryError, Status, open_repository
from service.published import list_published
from service.settings import Settings
from tests.support.folders import copied


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    """`resnet18` 1 and `resnet8-cifar` 1, the default."""
    return copied(tiny_dir, tmp_path / "models")


class Opened:
    """A repository that is loaded by hand.

    Attributes:
        broken: versions that cannot be loaded, as `name@version`.
        loaded, unloaded: in this order, as `name@version`.
    """

    def __init__(self, root: Path, *broken: str, **settings: object) -> None:
        self.settings = Settings.model_validate({"models_dir": root, **settings})
        self.broken = set(broken)
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.repository = open_repository(self.settings)
        self.load()

    def look(self) -> list[str]:
        """What a look at the model folder has loaded."""
        before = len(self.loaded)
        self.repository.take(list_published(self.settings))
        self.settle()
        self.load()
        return self.loaded[before:]

    def load(self) -> None:
        self.repository.read_cards()
        while model := next(iter(self.repository.to_load()), None):
            self.loaded.append(titled(model))
            model.status = Status("failed", "it was tried") if titled(model) in self.broken else Status("ready")
            self.repository.put(model)
            self.settle()
            self.repository.read_cards()

    def settle(self) -> list[Change]:
        changes, idle = self.repository.settle()
        self.unloaded += map(titled, idle)
        return changes

    @property
    def answering(self) -> dict[str, int]:
        return {reference: model.version for reference, model in self.repository.answering.items()}


def titled(model: Model) -> str:
    return f"{model.name}@{model.version}"


def test_selection(root: Path) -> None:
    repository = Opened(root).repository
    assert repository.select(None, None).name == "resnet8-cifar"
    assert repository.select("resnet18", None).depth == 18
    assert repository.select(None, 18).name == "resnet18"
    assert repository.select("resnet18", 18).name == "resnet18"


def test_a_choice_that_cannot_be_met_names_what_there_is(root: Path) -> None:
    repository = Opened(root).repository
    with pytest.raises(UnknownModel) as unknown:
        repository.select("resnet50", None)
    assert "resnet18" in unknown.value.advice()
    with pytest.raises(UnknownModel) as unknown:
        repository.select(None, 50)
    assert "resnet18 (depth 18)" in unknown.value.advice()
    with pytest.raises(UnknownModel, match="the name resnet18 and depth 50"):
        repository.select("resnet18", 50)


def test_without_a_default_a_request_has_to_name_a_model(root: Path) -> None:
    (root / "models.json").unlink()
    repository = Opened(root).repository
    with pytest.raises(ModelNotNamed) as unnamed:
        repository.select(None, None)
    assert "?model=`: resnet18, resnet8-cifar" in unnamed.value.advice()
    assert repository.select(None, 8).name == "resnet8-cifar"


def test_a_depth_that_several_have_is_the_defaults_or_ambiguous(root: Path) -> None:
    publish_copy(root, "another8")
    assert Opened(root).repository.select(None, 8).name == "resnet8-cifar"
    set_default(root, "resnet18")
    with pytest.raises(AmbiguousModel, match="another8, resnet8-cifar"):
        Opened(root).repository.select(None, 8)
    assert Opened(root, default_model="another8").repository.select(None, 8).name == "another8"


def test_versions_are_meant_by_name_alias_and_number(root: Path) -> None:
    for version in (2, 3, 4):
        publish_copy(root, "resnet8-cifar", version)
    promote(root, "resnet8-cifar", 2)
    promote(root, "resnet8-cifar", 4, "canary")
    opened = Opened(root)
    repository = opened.repository
    assert opened.loaded == ["resnet18@1", "resnet8-cifar@2", "resnet8-cifar@4"]
    for reference, version in (("", 2), ("@stable", 2), ("@canary", 4), ("@2", 2), ("@4", 4)):
        assert repository.get(f"resnet8-cifar{reference}").version == version
    for reference in ("@1", "@3", "@9", "@blue", "@"):
        with pytest.raises(UnknownModel):
            repository.get(f"resnet8-cifar{reference}")
    assert repository.references(repository.get("resnet8-cifar")) == ["resnet8-cifar", "resnet8-cifar@stable"]


def test_nothing_changes_for_clients_until_a_version_is_promoted(root: Path) -> None:
    promote(root, "resnet8-cifar", 1)
    opened = Opened(root)
    publish_copy(root, "resnet8-cifar", 2)
    publish_copy(root, "aaa-experiment")
    assert opened.look() == ["aaa-experiment@1"]
    assert opened.repository.select(None, None).name == "resnet8-cifar"
    assert opened.answering["resnet8-cifar"] == 1
    promote(root, "resnet8-cifar", 2, "canary")
    assert opened.look() == ["resnet8-cifar@2"]
    assert (opened.answering["resnet8-cifar"], opened.answering["resnet8-cifar@canary"]) == (1, 2)
    promote(root, "resnet8-cifar", 2)
    assert opened.look() == []  # it is there
    assert opened.answering["resnet8-cifar"] == 2
    assert opened.unloaded == ["resnet8-cifar@1"]


def test_a_new_version_replaces_the_old_one_once_it_is_ready(root: Path) -> None:
    opened = Opened(root)
    publish_copy(root, "resnet8-cifar", 2)
    assert opened.look() == ["resnet8-cifar@2"]
    assert opened.look() == []
    assert (opened.answering["resnet8-cifar"], opened.unloaded) == (2, ["resnet8-cifar@1"])
    remove(root / "resnet8-cifar" / "2")
    assert opened.look() == ["resnet8-cifar@1"]
    assert opened.answering["resnet8-cifar"] == 1


def test_a_version_that_fails_is_shown_and_not_tried_again(root: Path) -> None:
    opened = Opened(root, "resnet8-cifar@2")
    folder = publish_copy(root, "resnet8-cifar", 2)
    assert opened.look() == ["resnet8-cifar@2"]
    for _ in range(3):
        assert opened.look() == []
    assert [titled(model) for model in opened.repository.candidates] == ["resnet8-cifar@2"]
    assert (opened.answering["resnet8-cifar"], opened.unloaded) == (1, [])
    opened.repository.retry()
    assert opened.look() == ["resnet8-cifar@2"]
    (folder / "card.json").write_text((folder / "card.json").read_text() + "\n")
    assert opened.look() == ["resnet8-cifar@2"]
    remove(folder)
    assert opened.look() == []
    assert opened.repository.candidates == []


def test_at_the_start_the_last_good_version_is_served(root: Path) -> None:
    for version in (2, 3, 4):
        publish_copy(root, "resnet8-cifar", version)
    (root / "resnet8-cifar" / "4" / "card.json").write_text("{}")
    opened = Opened(root, "resnet8-cifar@3")
    assert opened.loaded == ["resnet18@1", "resnet8-cifar@3", "resnet8-cifar@2"]
    assert opened.answering["resnet8-cifar"] == 2
    assert [titled(model) for model in opened.repository.candidates] == ["resnet8-cifar@3"]
    (reason,) = opened.repository.unreadable.values()
    assert "not a valid model card" in reason


def test_strictly_none_takes_the_place_of_a_version_that_fails(root: Path) -> None:
    publish_copy(root, "resnet8-cifar", 2)
    opened = Opened(root, "resnet8-cifar@2", strict=True)
    assert opened.answering == {"resnet18": 1}
    assert opened.repository.get("resnet8-cifar").status.state == "failed"


def test_a_card_that_cannot_be_read_is_told_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = Opened(root)
    publish_copy(root, "resnet8-cifar", 2, change=lambda card: card.update(schema_version=9))
    for _ in range(3):
        assert opened.look() == []
    assert opened.answering["resnet8-cifar"] == 1
    assert [message for message in caplog.messages if "schema_version" in message] == caplog.messages
    assert len(caplog.messages) == 1


class Following:
    """A repository of another process, which is told of the versions one by one."""

    def __init__(self, leader: Repository) -> None:
        self.leader = leader
        self.repository = Repository(leader.listing)
        self.hear()

    def hear(self) -> None:
        leader = self.leader
        answering = {reference: model.stamp for reference, model in leader.answering.items()}
        self.repository.follow(leader.listing, leader.unreadable, answering)

    def put(self, model: Model) -> list[str]:
        """Returns what nobody needs any more."""
        told = Model(model.stamp, model.card)
        told.status = model.status
        self.repository.put(told)
        return [titled(idle) for idle in self.repository.settle()[1]]

    @property
    def answering(self) -> dict[str, int]:
        return {reference: model.version for reference, model in self.repository.answering.items()}


def test_a_process_that_comes_while_versions_load_answers_as_the_one_that_it_follows(root: Path) -> None:
    for version in (2, 3, 4):
        publish_copy(root, "resnet8-cifar", version)
    promote(root, "resnet8-cifar", 1)
    promote(root, "resnet8-cifar", 2, "canary")
    opened = Opened(root)
    promote(root, "resnet8-cifar", 4)
    promote(root, "resnet8-cifar", 3, "canary")
    opened.repository.take(list_published(opened.settings))
    opened.settle()  # nothing of it is loaded yet
    answering = {"resnet18": 1, "resnet8-cifar": 1, "resnet8-cifar@stable": 1, "resnet8-cifar@canary": 2}
    assert opened.answering == answering
    for order in itertools.permutations(opened.repository.versions):
        following = Following(opened.repository)
        assert [following.put(model) for model in order] == [[], [], []]
        assert following.answering == answering
    opened.load()
    assert opened.answering["resnet8-cifar@canary"] == 3
    following.hear()
    following.repository.settle()
    assert following.answering == answering  # until it has the new ones, too
    for reference in ("resnet8-cifar@stable", "resnet8-cifar@canary"):
        following.put(opened.repository.get(reference))
    assert following.answering == opened.answering


def test_a_removed_model_leaves_at_the_second_look_and_the_default_stays(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(root)
    publish_copy(root, "another8")
    opened.look()
    remove(root / "resnet18" / "1")
    opened.look()
    assert "resnet18" in opened.answering
    opened.look()
    assert "resnet18" not in opened.answering
    assert opened.unloaded == ["resnet18@1"]
    remove(root / "resnet8-cifar" / "1")
    for _ in range(3):
        opened.look()
        assert opened.repository.select(None, None).name == "resnet8-cifar"
    assert caplog.messages == [
        "resnet8-cifar has been removed from the model folder; as the default model, it is still served"
    ]


def test_a_damaged_state_changes_nothing_for_clients_and_is_told_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(root)
    before = opened.answering
    state = root / "resnet18" / "model.json"
    state.write_text('{"aliases": {"stable": one}}')
    publish_copy(root, "resnet18", 2, source="resnet18")
    for _ in range(3):
        opened.look()
        assert opened.answering == before
        assert ("resnet18", "model.json", "failed") in opened.repository.states
    (message,) = caplog.messages
    assert message.startswith(f"resnet18 is served as before: {state} is damaged: the file: Invalid JSON: ")
    state.unlink()
    assert opened.look() == ["resnet18@2"]
    assert [state for *_, state in opened.repository.states] == ["ready", "ready"]


def test_a_damaged_state_at_the_start_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "resnet18" / "model.json").write_text("{")
    opened = Opened(root)
    for _ in range(3):
        opened.look()
    (message,) = caplog.messages
    assert message.startswith(f"resnet18 is not served: {root / 'resnet18' / 'model.json'} is damaged")
    assert opened.answering == {"resnet8-cifar": 1}
    assert ("resnet18", "model.json", "failed") in opened.repository.states


def test_a_card_that_cannot_be_read_counts_as_failed_until_it_is_mended_or_removed(root: Path) -> None:
    opened = Opened(root)

    def failed() -> list[tuple[str, str]]:
        return [(name, version) for name, version, state in opened.repository.states if state == "failed"]

    folder = publish_copy(root, "resnet8-cifar", 2)
    whole = (folder / "card.json").read_text()
    for damaged in ("{", "{}", "[]"):
        (folder / "card.json").write_text(damaged)
        opened.look()
        assert failed() == [("resnet8-cifar", "2")]
    (folder / "card.json").write_text(whole)
    opened.look()
    assert (opened.answering["resnet8-cifar"], failed()) == (2, [])
    (publish_copy(root, "resnet8-cifar", 3) / "card.json").write_text("{")
    opened.look()
    assert failed() == [("resnet8-cifar", "3")]
    remove(root / "resnet8-cifar" / "3")
    opened.look()
    assert failed() == []


def test_a_model_that_is_away_for_one_look_is_not_removed(root: Path) -> None:
    opened = Opened(root)
    for _ in range(2):
        away = (root / "resnet18").rename(root.with_name("away"))
        opened.look()
        away.rename(root / "resnet18")
        opened.look()
    assert (opened.answering, opened.unloaded) == ({"resnet18": 1, "resnet8-cifar": 1}, [])


def test_the_default_follows_the_folder_and_never_moves_by_itself(root: Path) -> None:
    opened = Opened(root)
    set_default(root, "resnet18")
    opened.look()
    assert opened.repository.default == "resnet18"
    (root / "models.json").unlink()
    opened.look()
    assert opened.repository.default == "resnet18"


def test_at_the_start_something_must_be_readable(root: Path) -> None:
    for name in ("resnet18", "resnet8-cifar"):
        (root / name / "1" / "card.json").write_text("{}")
    with pytest.raises(RepositoryError, match=r"no model can be served: .*not a valid model card"):
        Opened(root)
    with pytest.raises(RepositoryError, match="there is no model resnet99"):
        Opened(root, models="resnet99")
