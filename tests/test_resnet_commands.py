"""Both programs start, or say in one sentence what their installation lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_commands
from model_export.__main__ import COMMANDS as EXPORT_COMMANDS
from resnet_commands import COMMANDS, EXPORT_EXTRA, PACKAGES, RUNTIME_EXTRA, called, missing, stranger
from service.runtime.build import this_build

ROOT = Path(__file__).parents[1]


def python(*arguments: str, cwd: Path, first: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder; `first` is ahead of this project on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(first), str(ROOT)))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(params=["folder", "module"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A package or a module of the user's, called `service`, in a folder of its own."""
    path = tmp_path / ("service/__init__.py" if request.param == "folder" else "service.py")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_no_stranger_here() -> None:
    assert stranger(*PACKAGES) is None


def test_a_package_or_module_of_the_users_is_named(theirs: Path, tmp_path: Path) -> None:
    finished = python("-m", "model_export", "--version", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: `import service` finds {theirs}, which is not part of resnet-service: ")
    assert len(finished.stderr.splitlines()) == 1


def test_without_the_current_folder_the_export_starts(theirs: Path, tmp_path: Path) -> None:
    finished = python("-P", "-m", "model_export", "--version", cwd=tmp_path)
    assert finished.stdout == f"{this_build()}\n", finished.stderr


def test_a_script_beside_it_is_warned(theirs: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import model_export\n")
    finished = python(str(script), cwd=ROOT)
    assert f"RuntimeWarning: `import service` finds {theirs}, " in finished.stderr
    assert "python -P" in finished.stderr
    assert finished.returncode == 0


@pytest.mark.parametrize("start", ["start", "start_service", "start_export"])
def test_the_commands_name_what_is_first_on_pythonpath(start: str, theirs: Path, tmp_path: Path) -> None:
    program = f"import sys, resnet_commands; sys.exit(resnet_commands.{start}())"
    finished = python("-P", "-c", program, cwd=ROOT, first=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: `import service` finds {theirs}, ")


def test_a_folder_without_modules_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    assert python("-m", "model_export", "--version", cwd=tmp_path).returncode == 0


def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_commands.HOME", tmp_path)
    fault = stranger("no_such_package")
    assert fault is not None
    assert fault.startswith(f"{tmp_path / 'no_such_package' / '__init__.py'} is missing")
    assert "pip install --force-reinstall" in fault


@pytest.mark.parametrize(
    ("name", "extra", "expected"),
    [
        ("torch", EXPORT_EXTRA, "torch is not installed: run pip install 'resnet-service[export]'"),
        ("onnx.helper", EXPORT_EXTRA, "onnx is not installed: run pip install 'resnet-service[export]'"),
        ("onnxruntime", EXPORT_EXTRA, f"onnxruntime is not installed: run pip install {RUNTIME_EXTRA}"),
        ("uvicorn", RUNTIME_EXTRA, f"uvicorn is not installed: run pip install {RUNTIME_EXTRA}"),
        ("resnet-service", RUNTIME_EXTRA, f"resnet-service is not installed: run pip install '.[cpu]' in {ROOT}"),
        ("fcntl", RUNTIME_EXTRA, "this Python lacks its own module fcntl: on Windows, which has none, use WSL 2"),
    ],
)
def test_what_is_missing_and_how_to_get_it(name: str, extra: str, expected: str) -> None:
    assert missing(ModuleNotFoundError(name=name), extra).startswith(expected)


@pytest.mark.parametrize("name", [None, "service.no_such_module", "model_export"])
def test_a_missing_module_of_the_project_is_a_bug(name: str | None) -> None:
    error = ModuleNotFoundError(name=name)
    with pytest.raises(ModuleNotFoundError) as raised:
        missing(error, RUNTIME_EXTRA)
    assert raised.value is error


@pytest.mark.parametrize(
    ("arguments", "absent", "expected"),
    [
        (["model_export", "train", "--help"], "torch", "'resnet-service[export]'\n"),
        (["model_export", "list"], "onnxruntime", f"{RUNTIME_EXTRA}\n"),
        (["service"], "onnxruntime", f"{RUNTIME_EXTRA}\n"),
        (["service", "--workers", "2"], "onnxruntime", f"{RUNTIME_EXTRA}\n"),
        (["service", "--help"], "pydantic_settings", f"{RUNTIME_EXTRA}\n"),
        (["service"], "fastapi", f"{RUNTIME_EXTRA}\n"),
        (["service.bulk", "x.jpg"], "onnxruntime", f"{RUNTIME_EXTRA}\n"),
        (["service.bulk", "x.jpg", "--url", "http://127.0.0.1:1"], "httpx", "'resnet-service[client]'\n"),
        (["service.bench", "http://127.0.0.1:1"], "uvloop", f"{RUNTIME_EXTRA}\n"),
    ],
)
def test_a_program_without_an_extra(arguments: list[str], absent: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{absent!r}] = None\n")
    finished = python("-m", *arguments, cwd=ROOT, first=tmp_path)
    assert finished.stderr == f"error: {absent} is not installed: run pip install {expected}"
    assert finished.returncode == 2


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        ("/venv/bin/resnet-service", "resnet-service"),
        ("resnet-service.exe", "resnet-service"),
        ("/app/service/__main__.py", "python -m service"),
        ("-c", "python -m service"),
    ],
)
def test_usages_name_what_was_typed(argv0: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [argv0])
    assert called("service") == expected


def test_the_programs_are_run_with_the_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["resnet-service", "--version"])
    assert resnet_commands.start_service() == 0
    assert capsys.readouterr().out == f"{this_build()}\n"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`resnet` with these arguments. Returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["resnet", *arguments])
    return resnet_commands.start()


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("service", "resnet serve"),
        ("service.bulk", "resnet classify"),
        ("service.bench", "resnet bench"),
        ("model_export", "resnet"),
    ],
)
def test_usages_of_the_one_command(package: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/resnet"])
    assert called(package) == expected


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_help_names_every_command(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 0
    listed = re.findall(r"^  ([a-z-]+) ", capsys.readouterr().out, re.MULTILINE)
    assert listed == [*COMMANDS, *EXPORT_COMMANDS]


def test_no_command_has_two_meanings() -> None:
    assert not COMMANDS.keys() & EXPORT_COMMANDS.keys()


def test_the_version_of_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "serve", "--version") == 0
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{this_build()}\n" * 2


@pytest.mark.parametrize("command", [*COMMANDS, "list"])
def test_each_command_explains_itself(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, command, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: resnet {command} ")


def test_an_unknown_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "clasify") == 2
    assert capsys.readouterr().err == "error: there is no command clasify: `resnet --help` lists them\n"
