"""Which build this is."""

from __future__ import annotations

import platform
from importlib.metadata import version

import onnxruntime as ort
import pytest

from model_export.__main__ import main as model_export
from service.__main__ import main as service
from service.runtime.build import COMMIT, this_build


def test_a_build_names_its_source_and_what_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, "0abc")
    build = this_build()
    assert build == (version("resnet-service"), "0abc", platform.python_version(), ort.__version__)
    assert str(build) == (
        f"resnet-service {build.version} (0abc), onnxruntime {ort.__version__}, Python {platform.python_version()}"
    )
    monkeypatch.setenv(COMMIT, "")  # an image that was built without
    assert this_build().commit is None
    assert "(" not in str(this_build())


def test_a_build_without_an_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.build.ONNX_RUNTIMES", ("no-such-package",))
    assert ", no onnxruntime, Python " in str(this_build())


def test_both_programs_tell_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert service(["--version"]) == 0
    with pytest.raises(SystemExit, match="0"):
        model_export(["--version"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second == str(this_build())
