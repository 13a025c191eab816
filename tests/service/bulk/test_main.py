"""The options of `resnet classify`."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bulk.__main__ import main, make_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: PATH"),
        (["a", "--output", "x"], "--output needs --json or --csv: choose one, or write --parquet FILE"),
        (["a", "--json", "--resume"], "--resume needs a file to go on with: add --output FILE or --parquet FILE"),
        (["a", "--json", "--csv"], "not allowed with argument"),
        (["a", "--model", "x", "--depth", "8"], "not allowed with argument"),
        (["a", "--top-k", "0"], "not a whole number from 1: '0'"),
        (["a", "--url", "x", "--models-dir", "y"], "--models-dir has no effect with --url: leave it out"),
        (["a", "--api-key-file", "y"], "--api-key-file has no effect without --url: leave it out"),
        (["a", "--url", "http://x", "--ca-file", "y"], "--ca-file has no effect without TLS"),
        (["a", "--url", "x", "--ray", "auto"], "--ray has no effect with --url: leave it out"),
        (["a", "--engine-gpus", "1"], "--engine-gpus has no effect without --ray: leave it out"),
        (["a", "--ray", "auto", "--engine-gpus", "1.5"], "not a whole number or a share of 1: '1.5'"),
        (["a", "--ray", "auto", "--explain", "x"], "--explain has no effect with --ray: leave it out"),
        (["a", "--parquet", "x", "--output", "y"], "--output needs --json or --csv"),
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
