"""`resnet bench` against the running service."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.bench.__main__ import main
from service.bench.command import generated
from tests.support.processes import Service, free_port

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def service(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tiny_dir, tmp_path_factory.mktemp("service") / "log", provider="cpu", max_batch=2) as started:
        yield started


def test_both_loops_are_measured(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.svg"
    given = ["--connections", "1,2", "--rate", "20", "--seconds", "0.5", "--depth", "18"]
    assert main([service.url, *given, "--json", str(out), "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{service.url}/classify?depth=18, 0.5 s at each level"
    assert [line.split()[:2] for line in lines[3:]] == [
        *(["1", "connection"], ["2", "connections"], ["20", "requests/s"]),
    ]
    found = json.loads(out.read_text())
    assert [level["loop"] for level in found["levels"]] == ["closed", "closed", "open"]
    assert all(level["answers"] > 0 and level["refusals"] == {} for level in found["levels"])
    assert found["image_bytes"] == [len(generated())]
    assert picture.read_text().startswith("<?xml")


def test_images_take_turns(service: Service, tmp_path: Path, photo: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.jpg", tmp_path / "b.unknown"]
    for path in paths:
        path.write_bytes(photo)
    out = tmp_path / "out.json"
    given = ["--connections", "1", "--seconds", "0.2", "--json", str(out)]
    assert main([f"{service.url}/preview", *map(str, paths), *given]) == 0
    assert json.loads(out.read_text())["image_bytes"] == [len(photo)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{url}", "--model", "none"],
            "refuses the request: 404 unknown-model. No model with the name none is served.",
        ),
        (["http://127.0.0.1:{closed}"], "does not answer ([Errno"),
        (["127.0.0.1:8000"], "127.0.0.1:8000 is not the address of a server: give one like http://127.0.0.1:8000"),
        (["{url}", "none.jpg"], "No such file or directory: 'none.jpg'"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], message: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(url=service.url, closed=free_port()) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_picture_needs_its_extra(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.bench.command.find_spec", lambda name: None)
    assert main([service.url, "--plot", "x.svg"]) == 2
    assert "run pip install 'resnet-service[plot]'" in capsys.readouterr().err


def test_the_generated_image_is_like_a_photograph() -> None:
    assert generated() == generated()
    with Image.open(io.BytesIO(generated())) as picture:
        assert (picture.format, picture.size) == ("JPEG", (500, 375))
    assert 50_000 < len(generated()) < 100_000
