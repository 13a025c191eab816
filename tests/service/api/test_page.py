"""`GET /` as programs and browsers ask for it. tests/e2e/test_page.py opens the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.documentation import STATIC
from service.api.page import prefers_html
from service.app import create_app
from service.settings import Settings

PAGE = STATIC / "page"
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
LONGEST_MODULE = 300  # lines


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ([], False),
        (["*/*"], False),  # curl
        (["text/*"], False),
        (["application/json"], False),
        (["text/html"], True),
        (["Text/HTML; charset=utf-8"], True),
        ([BROWSER["accept"]], True),
        (["application/json", "text/html;q=0.9"], False),
        (["application/json;q=0.5", "text/html;q=0.9"], True),
        (["text/html;q=0"], False),
        (["text/html;q=many"], False),
    ],
)
def test_html_is_for_those_who_name_it(accept: list[str], html: bool) -> None:
    assert prefers_html(accept) is html


def test_programs_get_the_places_and_browsers_the_page(client: TestClient) -> None:
    places, page = client.get("/"), client.get("/", headers=BROWSER)
    assert places.json()["classify"] == "POST /classify"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert places.headers["vary"] == page.headers["vary"] == "Accept"
    assert "content-security-policy" not in places.headers
    head = client.head("/", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")


def test_the_page_may_load_from_this_service_only(client: TestClient) -> None:
    policy = client.get("/", headers=BROWSER).headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == directives["base-uri"] == directives["frame-ancestors"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert directives["img-src"] == "'self'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/vision", "/vision/", "/"])
def test_addresses_are_right_under_a_prefix(tiny_dir: Path, path: str) -> None:
    client = TestClient(create_app(Settings(models_dir=tiny_dir, root_path="/vision")))
    page = client.get(path, headers=BROWSER)
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert len(addresses) > 5
    for address in addresses:
        assert address.startswith("/vision/")
        assert client.get(address).status_code == 200, address


def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", html)
    for path in (*PAGE.glob("*.html"), *PAGE.glob("*.js"), *PAGE.glob("*.css")):
        assert not re.search(r"(?<!xmlns=')(?<!xmlns=\")https?://", path.read_text()), path


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.js")), ids=lambda path: path.name)
def test_modules_are_small_and_write_no_markup(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
