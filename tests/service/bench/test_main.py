"""The options of `resnet bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bench.__main__ import main, make_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: URL"),
        (["url", "--connections", "1,x"], "not a number above 0: 'x'"),
        (["url", "--rate", "0"], "not a number above 0: '0'"),
        (["url", "--seconds", "inf"], "not a number above 0: 'inf'"),
        (["url", "--plot", "x.gif"], "'x.gif' ends in neither .svg nor .png"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_documentation_shows_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["resnet"])
    monkeypatch.setenv("COLUMNS", "100")
    page = (Path(__file__).parents[3] / "docs" / "command.md").read_text()
    assert make_parser().format_help() in page
