"""The policy of the page `/docs`. tests/e2e/test_docs_page.py opens it in a browser."""

from __future__ import annotations

import re

from starlette.testclient import TestClient


def test_the_page_may_run_its_own_scripts_only(client: TestClient) -> None:
    page = client.get("/docs")
    directives = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in page.headers["content-security-policy"]
    inline = re.findall(r"<script>", page.text)
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", directives["script-src"])) == len(inline) == 1


def test_other_answers_have_no_policy(client: TestClient) -> None:
    for path in ("/models", "/openapi.json", "/healthz/live", "/problems/no-image", "/static/swagger-ui.css"):
        assert "content-security-policy" not in client.get(path).headers
