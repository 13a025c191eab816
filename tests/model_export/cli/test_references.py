"""NAME, NAME@ALIAS and NAME@NUMBER mean the same version in every command: the one that clients of the service get."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy
from model_export.__main__ import main
from model_export.cli import evaluate, preview, quantize
from model_export.cli.options import selected_versions
from model_export.versions import find_version, promote
from service.published import list_published
from service.settings import Settings
from tests.support.folders import copied

NAME = "resnet8-cifar"
MEANT = {NAME: 2, f"{NAME}@stable": 2, f"{NAME}@canary": 4, f"{NAME}@1": 1}


@pytest.fixture
def root(tiny_dir: Path, tmp_path: Path) -> Path:
    """A model folder with versions 1 to 4 of one model: clients get the second, and try the last."""
    copied(tiny_dir / NAME, tmp_path / "models" / NAME)
    for version in (2, 3, 4):
        publish_copy(tmp_path / "models", NAME, version)
    promote(tmp_path / "models", NAME, 2)
    promote(tmp_path / "models", NAME, 4, "canary")
    return tmp_path / "models"


@pytest.mark.parametrize("reference", MEANT)
def test_a_reference_means_the_version_that_clients_get(
    root: Path, reference: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (NAME, MEANT[reference], root / NAME / str(MEANT[reference]))
    served = list_published(Settings.model_validate({"models_dir": root, "models": reference}), at_start=True)
    assert served.wanted[reference][0].path == expected[2]
    assert find_version(root, reference) == expected
    assert selected_versions(argparse.Namespace(models_dir=root, name=reference)) == [expected]
    assert evaluate.find_model(reference, argparse.Namespace(models_dir=root)) == expected
    assert preview.find_model(argparse.Namespace(models_dir=root, model=reference)) == expected

    quantised: list[object] = []
    monkeypatch.setattr(quantize, "publish_quantised", lambda version, *a, **options: quantised.append(version))
    with pytest.raises(AttributeError):  # nothing was published
        main(["quantize", reference, "--data", "drawings:train=4,val=4", "--models-dir", str(root)])
    assert quantised == [expected]

    assert main(["inspect", reference, "--models-dir", str(root)]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == expected[1]
    assert main(["verify", reference, "--provider", "cpu", "--models-dir", str(root)]) == 0
    assert capsys.readouterr().out.startswith(f"{NAME} {expected[1]}: ok: ")
    assert main(["triton-config", reference, "--models-dir", str(root)]) == 0
    assert f": version {expected[1]}, " in capsys.readouterr().out


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["evaluate", "--data", "drawings"], ["triton-config"]])
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"{NAME}@9", f"{NAME} has no version 9: choose from 1, 2, 3, 4"),
        (f"{NAME}@best", f"{NAME} has no alias best: choose from stable, canary, 1, 2, 3, 4"),
        ("resnet9@1", f"there is no model resnet9 in .*: choose from {NAME}"),
    ],
)
def test_what_is_not_published_is_said(
    root: Path, command: list[str], reference: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], reference, *command[1:], "--models-dir", str(root)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_folder_is_that_of_the_service(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RESNET_MODELS_DIR", "~/models")
    assert main(["rollback", NAME]) == 0
    assert find_version(root, NAME).version == 4
    monkeypatch.setenv("RESNET_MODELS_DIR", "elsewhere")
    assert main(["rollback", NAME]) == 1
    assert "there is no folder elsewhere" in capsys.readouterr().err
    monkeypatch.setenv("RESNET_MODELS_DIR", "")
    assert main(["inspect", NAME]) == 0  # `models` of the working folder
