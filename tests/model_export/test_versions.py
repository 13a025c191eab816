"""Promotion, rollback and removal, in folders without models: only names and numbers count."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.errors import InputError
from model_export.versions import (
    find_version,
    keep_default,
    promote,
    prune,
    published,
    remember_version,
    remove_version,
    rollback,
)
from service.runtime.model_folder import CardError
from service.runtime.model_state import ModelState, read_folder_state, read_state

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model folder with the versions 1 to 4 of `a`, and 1 of `b`."""
    for version in ("a/1", "a/2", "a/3", "a/4", "b/1"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "model.onnx").write_text(version)
    return tmp_path


def stable(root: Path) -> int:
    return find_version(root, "a").version


def test_the_latest_version_is_served_until_one_is_promoted(root: Path) -> None:
    assert stable(root) == 4
    assert promote(root, "a", 2) == 4
    assert stable(root) == find_version(root, "a@stable").version == 2
    (root / "a" / "5").mkdir()
    assert stable(root) == 2
    assert promote(root, "a", 5, "canary") is None
    assert (stable(root), find_version(root, "a@canary")) == (2, ("a", 5, root / "a" / "5"))
    assert read_state(root / "a") == ModelState(aliases={"stable": 2, "canary": 5}, replaced=(4,))


def test_a_rollback_goes_back_step_by_step(root: Path) -> None:
    for number in (1, 3, 2):
        promote(root, "a", number)
    assert [rollback(root, "a") for _ in range(3)] == [(2, 3), (3, 1), (1, 4)]
    with pytest.raises(InputError, match="a has no version that was stable before 4: name one with `promote a@NUMBER`"):
        rollback(root, "a")
    assert stable(root) == 4


def test_a_rollback_passes_over_removed_versions(root: Path) -> None:
    for number in (1, 2, 3):
        promote(root, "a", number)
    remove_version(root, "a", 2)
    assert rollback(root, "a") == (3, 1)
    assert rollback(root, "a") == (1, 4)


def test_without_any_promotion_a_rollback_takes_the_version_before_the_latest(root: Path) -> None:
    assert rollback(root, "a") == (4, 3)
    (root / "a" / "5").mkdir()
    assert stable(root) == 3
    with pytest.raises(InputError, match="b has no version that was stable before 1"):
        rollback(root, "b")


def test_the_first_model_is_the_default_and_stays_it(tmp_path: Path) -> None:
    for names, default in (("b", "b"), ("ba", "b"), ("bac", "b")):
        (tmp_path / names[-1] / "1").mkdir(parents=True)
        keep_default(tmp_path, names[-1])
        assert read_folder_state(tmp_path).default == default


def test_of_a_folder_of_before_the_only_other_model_becomes_the_default(root: Path) -> None:
    keep_default(root, "a")
    assert read_folder_state(root).default == "b"


def test_with_several_models_somebody_has_to_name_a_default(root: Path) -> None:
    (root / "c" / "1").mkdir(parents=True)
    keep_default(root, "c")
    assert read_folder_state(root).default is None


def test_promoting_what_is_stable_changes_nothing(root: Path) -> None:
    promote(root, "a", 4)
    promote(root, "a", 4)
    assert read_state(root / "a").replaced == ()


def test_a_removed_number_stays_taken(root: Path) -> None:
    promote(root, "a", 1)
    remove_version(root, "a", 4)
    assert published(root, "a") == [1, 2, 3]
    assert read_state(root / "a").last_version == 4
    assert sorted(path.name for path in (root / "a").iterdir()) == ["1", "2", "3", "model.json"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, "a@1 is canary: promote another version first"),
        (4, "a@4 is the version that clients get: promote another one first"),
        (9, "a has no version 9: choose from 1, 2, 3, 4"),
    ],
)
def test_versions_in_use_are_not_removed(root: Path, number: int, message: str) -> None:
    promote(root, "a", 1, "canary")
    with pytest.raises(InputError, match=message):
        remove_version(root, "a", number)
    assert published(root, "a") == [1, 2, 3, 4]


def test_prune_keeps_the_latest_and_what_has_a_name(root: Path) -> None:
    for number in (5, 6, 7, 8):
        (root / "a" / str(number)).mkdir()
    promote(root, "a", 2, "canary")
    promote(root, "a", 3)
    promote(root, "a", 4)  # 3 is what a rollback goes back to
    assert prune(root, "a", 2) == [1, 5, 6]
    assert published(root, "a") == [2, 3, 4, 7, 8]
    assert rollback(root, "a") == (4, 3)


def test_fields_of_later_releases_are_kept(root: Path) -> None:
    path = root / "a" / "model.json"
    path.write_text(json.dumps({"last_version": 9, "added_later": [1]}))
    promote(root, "a", 2)
    assert json.loads(path.read_text()) == {
        "last_version": 9,
        "aliases": {"stable": 2},
        "replaced": [4],
        "added_later": [1],
    }
    remember_version(root / "a", 7)
    assert read_state(root / "a").last_version == 9


def test_a_damaged_state_is_never_overwritten(root: Path) -> None:
    path = root / "a" / "model.json"
    path.write_text('{"aliases": {"3": 1}}')
    with pytest.raises(CardError, match=r"model.json is damaged: aliases\.3"):
        promote(root, "a", 2)
    assert path.read_text() == '{"aliases": {"3": 1}}'


def test_processes_take_turns(root: Path) -> None:
    """Each gives an alias of its own; none is lost."""
    code = f"""
import sys
from pathlib import Path
from model_export.versions import promote
for number in range(20):
    promote(Path({str(root)!r}), "a", 1, f"{{sys.argv[1]}}{{number}}")
"""
    running = [subprocess.Popen([sys.executable, "-c", code, letter], cwd=ROOT) for letter in "xyz"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(read_state(root / "a").aliases) == 60


def run(root: Path, *arguments: str) -> int:
    return main([*arguments, "--models-dir", str(root)])


def test_the_commands_say_what_clients_get(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["default"], "no model is the default: choose one with `default NAME`"),
        (["default", "b"], "default model: b"),
        (["default"], "default model: b"),
        (["promote", "a@3", "--to", "canary"], "a@canary is version 3"),
        (["promote", "a@canary"], "a@stable is version 3, instead of 4"),
        (["rollback", "a"], "a@stable is version 4, instead of 3"),
        (["remove", "a@canary"], "a@canary is removed; version 3 is still there"),
        (["remove", "a@3"], "a 3 is removed"),
        (["prune", "a", "--keep", "1"], "a: removed 1, 2"),
        (["prune", "a"], "a: nothing to remove"),
        (["prune", "--keep", "1"], "a: nothing to remove\nb: nothing to remove"),
    ):
        assert run(root, *arguments) == 0
        assert capsys.readouterr().out == f"{said}\n"
    assert read_folder_state(root).default == "b"


def test_prune_removes_what_killed_commands_have_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = [root / ".staging-quickstart", root / "a" / ".staging-export", root / "b" / ".removed-3"]
    at_work = root / "a" / ".staging-new"
    for folder in (*left, at_work):
        (folder / "3").mkdir(parents=True)
    for folder in left:
        os.utime(folder, (0, 0))
    assert run(root, "prune", "a") == 0
    assert capsys.readouterr().out.count("removed; a command that was killed had left it") == 3
    assert [folder.exists() for folder in (*left, at_work)] == [False, False, False, True]
    assert published(root, "a") == [2, 3, 4]


def test_prune_removes_what_a_killed_first_command_has_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no model then."""
    left = [tmp_path / ".staging-quickstart", tmp_path / "first" / ".staging-export"]
    for folder in left:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    assert run(tmp_path, "prune") == 0
    assert capsys.readouterr().out.count("removed; a command that was killed had left it") == 2
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path, "prune") == 1
    assert f"nothing is published in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["default", "c"], "there is no model c in .*: choose from a, b"),
        (["promote", "a@9"], "a has no version 9: choose from 1, 2, 3, 4"),
        (["promote", "a@blue"], "a has no alias blue: choose from 1, 2, 3, 4"),
        (["promote", "a@1", "--to", "7"], "'7' is no alias: use lower-case letters"),
        (
            ["promote", "a@1", "--to", "metrics"],
            "no alias can be called metrics, because paths of the service end in it",
        ),
        (["remove", "a"], "say what to remove of a: a@NUMBER is a version, a@ALIAS an alias"),
        (["remove", "a@stable"], "a has no alias stable: choose from its versions"),
        (["rollback", "c"], "there is no model c in "),
        (["rollback", "a@3"], "a@3 names a version: give the model alone, a"),
    ],
)
def test_mistakes_are_one_sentence(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, *arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
