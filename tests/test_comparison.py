"""The tables of features beside other servers: every cell has a verdict and a source, and README shows the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "comparison.md"
VERDICTS = {"yes", "partly", "code", "no"}
OURS = re.compile(r"\[(\w+)\]\(([^)#]+)[^)]*\)(: .+)?")
OTHERS = re.compile(r"\[(\w+)\]\[([\w-]+)\](: .+)?")
SOURCE = re.compile(r"^\[([\w-]+)\]: (\S+)$", re.MULTILINE)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table whose columns are servers, header first, without the line below it."""
    found = re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE)
    cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()] for table in found]
    return [[table[0], *table[2:]] for table in cells if "Triton" in table[0]]


def features() -> dict[str, list[str]]:
    """The cells of every feature, by its name."""
    return {row[0]: row[1:] for table in tables(PAGE.read_text()) for row in table[1:]}


def verdict(cell: str) -> str:
    match = OURS.fullmatch(cell) or OTHERS.fullmatch(cell)
    assert match, cell
    return match[1]


def test_all_tables_compare_the_same_servers() -> None:
    headers = {tuple(table[0][1:]) for table in tables(PAGE.read_text()) + tables((ROOT / "README.md").read_text())}
    assert len(headers) == 1
    assert len(headers.pop()) == 8


def test_every_cell_has_a_verdict() -> None:
    rows = features()
    assert len(rows) > 20
    for name, cells in rows.items():
        assert len(cells) == 8, name
        assert {verdict(cell) for cell in cells} <= VERDICTS, name


def test_features_are_listed_once() -> None:
    names = [row[0] for table in tables(PAGE.read_text()) for row in table[1:]]
    assert not [name for name, count in Counter(names).items() if count > 1]


def test_our_cells_link_to_pages_of_ours() -> None:
    for name, (ours, *_) in features().items():
        match = OURS.fullmatch(ours)
        assert match, f"{name}: {ours}"
        assert (PAGE.parent / match[2]).is_file(), f"{name}: {match[2]}"


def test_the_cells_of_others_link_to_their_documentation() -> None:
    sources = dict(SOURCE.findall(PAGE.read_text()))
    used = set()
    for name, (_, *others) in features().items():
        for cell in others:
            match = OTHERS.fullmatch(cell)
            assert match, f"{name}: {cell}"
            assert sources[match[2]].startswith("https://"), f"{name}: {match[2]}"
            used.add(match[2])
    assert used == sources.keys()


def test_readme_says_the_same() -> None:
    rows = features()
    (table,) = tables((ROOT / "README.md").read_text())
    assert len(table) > 10
    for name, *cells in table[1:]:
        assert cells == [verdict(cell) for cell in rows[name]], name
