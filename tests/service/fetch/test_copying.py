"""What arrives in the model folder, from a folder of this machine."""

from __future__ import annotations

import json
import shutil
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model_export.versions import promote
from service.fetch import copying
from service.fetch.__main__ import main
from service.published import list_published
from service.runtime.model_state import STATE_FILE, read_folder_state, read_state
from service.settings import Settings
from tests.support.disks import small_disk_at
from tests.support.folders import whole

Fetch = Callable[..., Any]
SERVED = ["resnet20-cifar@1", "resnet8-cifar@1", "resnet8-cifar@2"]


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".")]


def test_what_a_service_would_serve_arrives(published: Path, tmp_path: Path, run: Fetch) -> None:
    assert run(published).status == 0
    root = tmp_path / "models"
    assert whole(root) == SERVED
    here, there = (list_published(Settings(models_dir=folder), at_start=True) for folder in (root, published))
    assert here.default == there.default == "resnet20-cifar"
    assert list(here.wanted) == list(there.wanted)
    assert read_state(root / "resnet8-cifar").aliases == {"stable": 1, "canary": 2}
    assert hidden(root) == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.glob("*/*/*")} == {0o644}


@pytest.mark.parametrize(
    ("models", "versions", "aliases"),
    [
        ("resnet8-cifar", ["resnet8-cifar@1", "resnet8-cifar@2"], {"stable": 1, "canary": 2}),
        ("resnet8-cifar@canary", ["resnet8-cifar@2"], {"canary": 2}),
        ("resnet8-cifar@3, resnet20-cifar", ["resnet20-cifar@1", "resnet8-cifar@3"], {}),
    ],
)
def test_models_are_named_as_in_the_settings(
    models: str, versions: list[str], aliases: dict[str, int], published: Path, tmp_path: Path, run: Fetch
) -> None:
    assert run(published, f"--models={models}").status == 0
    assert whole(tmp_path / "models") == versions
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == aliases
    list_published(Settings(models_dir=tmp_path / "models", models=models), at_start=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "fault"),
    [
        ("resnet50", "there is no model resnet50: choose from resnet20-cifar, resnet8-cifar"),
        ("resnet8-cifar@best", "resnet8-cifar has no alias best: choose from "),
        ("resnet8-cifar@9", "resnet8-cifar has no version 9: choose from 1, 2, 3"),
    ],
)
def test_what_is_not_there_is_named(models: str, fault: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    fetched = run(published, f"--models={models}")
    assert fetched.status == 1
    assert fault in fetched.err
    assert hidden(tmp_path / "models") == []


def test_names_that_the_service_keeps_for_itself_are_refused(
    published: Path, tmp_path: Path, run: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only by hand do they get into a source: `export` and `promote` refuse them."""
    copy = shutil.copytree(published / "resnet20-cifar", published / "stats") / "1"
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "name": "stats"}))
    state = read_state(published / "resnet8-cifar")
    aliases = {**state.aliases, "metrics": 3}
    (published / "resnet8-cifar" / STATE_FILE).write_text(state.model_copy(update={"aliases": aliases}).to_json())
    fetched = run(published)
    assert fetched.status == 1
    assert "error: no model can be called stats, because paths of the service end in it: publish " in fetched.err
    assert "the alias resnet8-cifar@metrics is left out" in caplog.text
    assert whole(tmp_path / "models") == SERVED
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"stable": 1, "canary": 2}


def test_the_environment_of_the_service_is_enough(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_MODELS_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("RESNET_MODELS", "resnet20-cifar")
    assert main([str(published)]) == 0
    assert whole(tmp_path / "here") == ["resnet20-cifar@1"]


def test_a_second_run_fetches_nothing(published: Path, tmp_path: Path, run: Fetch) -> None:
    run(published)
    before = {path: path.stat().st_ctime_ns for path in (tmp_path / "models").glob("*/*/*")}
    fetched = run(published)
    assert fetched.out == "".join(f"{version}: is there\n" for version in SERVED)
    assert {path: path.stat().st_ctime_ns for path in (tmp_path / "models").glob("*/*/*")} == before


def test_only_the_broken_file_of_a_version_is_fetched_again(
    published: Path, tmp_path: Path, run: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    run(published)
    broken = tmp_path / "models" / "resnet8-cifar" / "1" / "self_test.npz"
    broken.write_bytes(b"not what it was")
    fetched = run(published)
    assert "resnet8-cifar@1: fetched 0." in fetched.out  # not the 1.5 MB of its model.onnx
    assert "resnet8-cifar@1 is damaged here: its broken files are fetched again" in caplog.messages
    assert whole(tmp_path / "models") == SERVED


def test_a_later_version_with_the_same_files_is_not_fetched_twice(published: Path, tmp_path: Path, run: Fetch) -> None:
    run(published, "--models=resnet8-cifar@1")
    copy = shutil.copytree(published / "resnet8-cifar" / "1", published / "resnet8-cifar" / "4")
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "version": 4}))
    promote(published, "resnet8-cifar", 4)
    fetched = run(published, "--models=resnet8-cifar@stable")
    assert "resnet8-cifar@4: fetched 0.0 MB" in fetched.out
    assert whole(tmp_path / "models") == ["resnet8-cifar@1", "resnet8-cifar@4"]
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"stable": 4}


def test_a_damaged_source_does_no_harm_to_what_is_here(published: Path, tmp_path: Path, run: Fetch) -> None:
    run(published, "--models=resnet8-cifar@1")
    copy = shutil.copytree(published / "resnet8-cifar" / "1", published / "resnet8-cifar" / "4")
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "version": 4}))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"more than the card says")
    assert run(published, "--models=resnet8-cifar@4").status == 0  # by the file that is here
    assert whole(tmp_path / "models") == ["resnet8-cifar@1", "resnet8-cifar@4"]


def test_another_version_under_the_same_number_replaces_it(published: Path, tmp_path: Path, run: Fetch) -> None:
    run(published)
    shutil.rmtree(published / "resnet8-cifar" / "1")
    replaced = shutil.copytree(published / "resnet8-cifar" / "3", published / "resnet8-cifar" / "1")
    card = json.loads((replaced / "card.json").read_text())
    (replaced / "card.json").write_text(json.dumps({**card, "version": 1}))
    assert run(published).status == 0
    assert whole(tmp_path / "models") == SERVED
    here = tmp_path / "models" / "resnet8-cifar" / "1" / "card.json"
    assert here.read_bytes() == (replaced / "card.json").read_bytes()
    assert hidden(tmp_path / "models") == []


def test_versions_of_this_folder_stay(published: Path, tmp_path: Path, run: Fetch) -> None:
    shutil.copytree(published / "resnet8-cifar" / "3", tmp_path / "models" / "resnet8-cifar" / "3")
    promote(tmp_path / "models", "resnet8-cifar", 3, "mine")
    assert run(published).status == 0
    assert "resnet8-cifar@3" in whole(tmp_path / "models")
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"stable": 1, "canary": 2, "mine": 3}


@pytest.mark.parametrize("file", ["model.onnx", "self_test.npz", "classifier.npy"])
def test_a_damaged_file_is_refused_and_nothing_stays(file: str, published: Path, tmp_path: Path, run: Fetch) -> None:
    path = published / "resnet8-cifar" / "1" / file
    path.write_bytes(path.read_bytes()[:-1])
    fetched = run(published)
    assert fetched.status == 1
    assert f"{path} has {path.stat().st_size} bytes with SHA-256 " in fetched.err
    assert "upload the folder again" in fetched.err
    assert whole(tmp_path / "models") == ["resnet20-cifar@1", "resnet8-cifar@2"]  # the others have come
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"canary": 2}
    assert hidden(tmp_path / "models") == []


def test_a_missing_file_is_refused(published: Path, tmp_path: Path, run: Fetch) -> None:
    (published / "resnet8-cifar" / "2" / "model.onnx").unlink()
    fetched = run(published, "--models=resnet8-cifar@2")
    assert fetched.status == 1
    assert "resnet8-cifar/2/model.onnx is missing, and the model's card names it" in fetched.err
    assert whole(tmp_path / "models") == []


def test_a_version_without_its_last_layer_is_served_as_older_releases_left_it(
    published: Path, tmp_path: Path, run: Fetch
) -> None:
    (published / "resnet8-cifar" / "2" / "classifier.npy").unlink()
    assert run(published, "--models=resnet8-cifar@2").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@2"]


@pytest.mark.parametrize(
    ("card", "fault"),
    [("{}", "is not a valid model card"), (None, "has no card.json"), ('"', "is not a valid model card")],
)
def test_a_version_with_a_bad_card_is_refused(
    card: str | None, fault: str, published: Path, tmp_path: Path, run: Fetch
) -> None:
    path = published / "resnet8-cifar" / "2" / "card.json"
    path.unlink() if card is None else path.write_text(card)
    fetched = run(published, "--models=resnet8-cifar@2")
    assert fetched.status == 1
    assert fault in fetched.err
    assert whole(tmp_path / "models") == []


def test_a_card_of_another_model_is_refused(published: Path, tmp_path: Path, run: Fetch) -> None:
    (published / "resnet8-cifar").rename(published / "mine")
    fetched = run(published, "--models=mine@2")
    assert fetched.status == 1
    assert "is the card of resnet8-cifar 2: published folders must not be renamed" in fetched.err
    assert whole(tmp_path / "models") == []


@pytest.mark.parametrize("file", ["models.json", "resnet8-cifar/model.json"])
def test_a_damaged_state_is_refused(file: str, published: Path, run: Fetch) -> None:
    (published / file).write_text("[")
    fetched = run(published)
    assert fetched.status == 1
    assert f"{file} is damaged" in fetched.err


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("nowhere", "there is no folder nowhere: give a model folder, s3://BUCKET/PREFIX or oci://IMAGE"),
        ("ftp://host/models", "ftp://host/models is no source of models"),
        ("s3://", "s3:// names no bucket"),
        ("oci://host", "oci://host names no image"),
    ],
)
def test_a_source_that_is_none(source: str, fault: str, run: Fetch) -> None:
    fetched = run(source)
    assert fetched.status == 1
    assert fault in fetched.err


def test_a_folder_without_models(tmp_path: Path, run: Fetch) -> None:
    (tmp_path / "empty").mkdir()
    fetched = run(tmp_path / "empty")
    assert fetched.status == 1
    assert "holds no models: it should have files like resnet50/1/card.json" in fetched.err


def test_a_full_disk_is_named_and_left_as_it_was(published: Path, tmp_path: Path, run: Fetch) -> None:
    with small_disk_at(tmp_path / "models", 2**20):
        fetched = run(published, "--models=resnet8-cifar@2")
        assert fetched.status == 1
        assert f"{tmp_path / 'models'} has no space left for resnet8-cifar@2: free some" in fetched.err
        assert whole(tmp_path / "models") == []
        assert hidden(tmp_path / "models") == []


def test_a_second_process_waits_for_the_first(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    statuses: list[int] = []
    with copying.work_folder(root):
        waiting = threading.Thread(target=lambda: statuses.append(main([str(published), f"--models-dir={root}"])))
        waiting.start()
        waiting.join(0.5)
        assert whole(root) == []
    waiting.join(60)
    assert statuses == [0]
    assert whole(root) == SERVED


def test_one_process_at_a_time_although_each_removes_the_folder(tmp_path: Path) -> None:
    inside, most, alone = 0, 0, threading.Lock()

    def enter_often() -> int:
        nonlocal inside, most
        for _ in range(100):
            with copying.work_folder(tmp_path / "models") as work:
                with alone:
                    inside += 1
                    most = max(most, inside)
                (work / "file").touch()
                time.sleep(0.0005)
                with alone:
                    inside -= 1
        return 100

    with ThreadPoolExecutor(3) as pool:
        assert [each.result() for each in [pool.submit(enter_often) for _ in range(3)]] == [100] * 3
    assert most == 1
    assert hidden(tmp_path) == []


def test_the_default_is_kept_if_the_sources_is_not_fetched(published: Path, tmp_path: Path, run: Fetch) -> None:
    run(published, "--models=resnet8-cifar")
    assert read_folder_state(tmp_path / "models").default is None
    assert run(published).status == 0
    assert read_folder_state(tmp_path / "models").default == "resnet20-cifar"
