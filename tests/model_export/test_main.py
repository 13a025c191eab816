"""The command line as a whole: every command, exit statuses and error reports."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import _SubParsersAction
from pathlib import Path

import pytest

from model_export.__main__ import COMMANDS, main, make_parser

CLI = Path(__file__).parents[2] / "model_export" / "cli"


def python(*arguments: object, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["--help"])
    assert status.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"\n    {name}" in printed for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main([command, "--help"])
    assert status.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m model_export {command} ")
    assert " ".join(printed.split()).endswith("130 after Ctrl-C, 143 after SIGTERM.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    (commands,) = (action for action in make_parser(command)._actions if isinstance(action, _SubParsersAction))
    for action in commands.choices[command]._actions:
        assert action.help, (action.option_strings, action.dest)


def test_options_of_the_recipe_name_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    for option in ("--optimizer {sgd,adamw}", "--mirror {yes,no}", "--class-weights {balanced,none}", "--lr LR"):
        assert option in printed


def test_every_command_module_is_a_command() -> None:
    modules = {path.stem for path in CLI.glob("*.py") if "\ndef run(" in path.read_text()}
    assert modules == {name.replace("-", "_") for name in COMMANDS}


def test_an_unknown_option_shows_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["list", "--no-such-option", "x"])
    assert status.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: python -m model_export list ")
    assert printed.endswith("error: unrecognized arguments: --no-such-option x\n")
    with pytest.raises(SystemExit):
        main(["--no-such-option", "list"])
    assert capsys.readouterr().err.startswith("usage: python -m model_export [-h] [--version] COMMAND ...")


@pytest.mark.parametrize("where", ["model_export.__main__.make_parser", "model_export.cli.list.run"])
def test_an_interrupt_is_one_sentence(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also during the imports of a command."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    assert main(["list"]) == 130
    assert (
        capsys.readouterr().err
        == "interrupted: no unfinished model is published; downloads and trainings can be resumed\n"
    )


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_a_missing_or_unknown_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "inspect", "verify"])
def test_commands_that_look_at_published_models_do_not_import_torch(command: str, tiny_dir: Path) -> None:
    program = f"""
import sys
from model_export.__main__ import main
assert main([{command!r}, "--models-dir", {str(tiny_dir)!r}]) == 0
print([name for name in ("torch", "onnx", "matplotlib") if name in sys.modules])
"""
    finished = python("-c", program)
    assert finished.stdout.splitlines()[-1:] == ["[]"], finished.stderr


def test_a_closed_pipe_is_not_an_error(tiny_dir: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    finished = python("-m", "model_export", "list", "--models-dir", tiny_dir, stdout=writer)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (1, "")


def test_a_full_disk_is_one_sentence(tiny_dir: Path) -> None:
    with Path("/dev/full").open("w") as full:
        finished = python("-m", "model_export", "list", "--models-dir", tiny_dir, stdout=full.fileno())
    assert (finished.returncode, finished.stderr) == (1, "error: No space left on device\n")
