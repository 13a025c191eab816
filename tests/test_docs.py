"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from service.grpc_api import messages
from service.keys import Entry
from service.metrics import Metrics
from service.operating_state import OperatingState
from service.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_generated_pages_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        assert (ROOT / "docs" / name).read_text() == text, "run `make docs`"


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links may name on a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    words = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("folder", ["docker", "deploy"])
def test_comments_lead_to_pages(folder: str) -> None:
    for path in (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"):
        for page, anchor in re.findall(r"(docs/[\w-]+\.md)(?:#([\w-]+))?", path.read_text()):
            assert (ROOT / page).exists(), f"{path}: {page}"
            assert not anchor or anchor in anchors(ROOT / page), f"{path}: {page}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_whole(page: Path) -> None:
    """Each has a line under its header and as many cells in every row: else it is shown as text, or without a cell."""
    for table in re.findall(r"(?:^ *\|.*\n)+", prose(page), re.MULTILINE):
        rows = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert re.fullmatch(r" *\|(?: *:?-+:? *\|)+", table.splitlines()[1]), table
        assert set(rows) == {rows[0]}, table


def test_every_picture_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for folder in ("docs", "benchmarks"):
        for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in (".jpg", ".png", ".svg")):
            assert path.name in text, path


def test_the_images_of_docker_that_pages_name_are_built() -> None:
    files = (ROOT / "docker-compose.yml", *(ROOT / "docker").glob("compose.*.yml"))
    built = set(re.findall(r"image: (resnet-service:\S+)", "".join(path.read_text() for path in files)))
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?<=FROM )resnet-service\S*|resnet-service:[\w-]+", text))
    assert named
    assert named <= built


def test_every_method_of_the_grpc_port_is_documented() -> None:
    page = (ROOT / "docs" / "grpc.md").read_text()
    (row,) = re.findall(r"^\| `inference.GRPCInferenceService` \| (.*) \|$", page, re.MULTILINE)
    (not_built,) = re.findall(r"Not built.*?\.", page, re.DOTALL)
    (service,) = messages.DESCRIPTOR.services_by_name.values()
    built = {method.name for method in service.methods}
    assert set(re.findall(r"`(\w+)`", row)) == built
    assert not built & set(re.findall(r"`(\w+)`", not_built))


def test_the_limit_of_one_process_follows_from_its_parts() -> None:
    """The formula of docs/performance.md, its table, and the pages that quote it."""
    page = (ROOT / "docs" / "performance.md").read_text()
    useful = []
    for parts, *shown in re.findall(
        r"^\| \w+ .*?((?: \| \d+\.\d){4})" + r" \| (\d+)" * 4 + r" \|$", page, re.MULTILINE
    ):
        decode, engine, loop, batching = map(float, parts.split("|")[1:])
        one_core, most = 1000 / (decode + engine + loop + batching), 1000 / (loop + batching)
        useful.append(int(most / one_core))
        assert list(map(int, shown)) == [round(one_core), round(min(8 * one_core, most)), useful[-1], round(most)]
    without_amx, _, with_amx = useful
    for name, quoted in (
        ("performance.md", f"keeps {without_amx} cores busy before that, {with_amx} with AMX"),
        ("containers.md", f"keeps {without_amx} cores busy before that, {with_amx} with AMX"),
        ("settings.md", f"more than {without_amx} cores ({with_amx} with AMX)"),
        ("kubernetes.md", f"beyond the {with_amx} to {without_amx} that one process can use"),
    ):
        assert quoted in " ".join((ROOT / "docs" / name).read_text().split()), name


def test_every_extra_is_on_the_page_about_installing() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    named = re.findall(r"'\.\[([\w,-]+)\]'", (ROOT / "docs" / "install.md").read_text())
    for_users = declared - {"server", "dev", "fuzz"}  # a part of cpu and cuda, and what only the project itself needs
    assert {extra for extras in named for extra in extras.split(",")} == for_users


def test_every_path_on_the_architecture_page_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:service|model_export|tests)/[\w/]+(?:\.py)?)`", text)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_module_says_what_it_is() -> None:
    """So that the command on the architecture page lists all of them."""
    modules = [path for package in ("service", "model_export") for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in modules if not re.match('r?"""', path.read_text())]


def test_every_metric_is_documented() -> None:
    documented = set(re.findall(r"`(resnet_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    metrics = Metrics()
    metrics.look_up(OperatingState(ready=lambda: True, target_wait=1.0))
    exposed = {family.name for family in metrics.registry.collect() if family.name.startswith("resnet_")}
    assert {name.removesuffix("_total") for name in documented} == exposed


def test_every_limit_on_the_security_page_is_a_setting() -> None:
    table = (ROOT / "docs" / "security.md").read_text().partition("| limit | protects |")[2].partition("\n\n")[0]
    limits = [row.split("|")[1] for row in table.splitlines() if row]
    named = set(re.findall(r"`(\w+)`", " ".join(limits)))
    assert len(named) > 10
    assert named <= Settings.model_fields.keys() | Entry.model_fields.keys()


def test_make_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert explained == targets
    assert {"run", "test", "lint", "bench", "docker"} <= targets
