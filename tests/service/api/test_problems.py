"""Problem documents beyond `/classify`."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from service.errors import Problem, problem_types


@pytest.mark.parametrize("problem", list(problem_types()), ids=lambda p: p.__name__)
def test_every_type_has_a_page(client: TestClient, problem: type[Problem]) -> None:
    response = client.get(f"/problems/{problem.slug}")
    assert response.status_code == 200
    assert response.text.startswith(f"{problem.title} (HTTP status {problem.status})")
    assert "Remedy: " in response.text
    assert "{" not in response.text


def test_unknown_paths_and_methods(client: TestClient) -> None:
    for path in ("/nope", "/problems/nope", "/static/nope.js"):
        response = client.get(path)
        assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")
        assert response.headers["content-type"] == "application/problem+json"
    response = client.get("/classify")
    assert (response.status_code, response.json()["type"]) == (405, "/problems/method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_a_slash_behind_a_path_changes_nothing(client: TestClient, photo: bytes) -> None:
    assert client.post("/classify/", content=photo, follow_redirects=False).status_code == 200
    for path in ("/models", "/models/resnet18", "/models/resnet18/labels", "/healthz/live", "/problems/no-image"):
        response = client.get(f"{path}/", follow_redirects=False)
        assert (response.status_code, response.content) == (200, client.get(path).content)
    assert client.get("/models//", follow_redirects=False).status_code == 200
    assert client.head("/models/", follow_redirects=False).status_code == 200


@pytest.mark.parametrize("path", ["/nope/", "/nope//", "//", "/static", "/static/", "/" + "/" * 5000, "/classify/x/"])
def test_unknown_paths_with_slashes_are_named_as_they_came(client: TestClient, path: str) -> None:
    response = client.get(f"http://testserver{path}", follow_redirects=False)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")
    assert response.json()["path"] == path


def test_a_slash_does_not_help_a_wrong_method(client: TestClient) -> None:
    response = client.get("/classify/", follow_redirects=False)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_an_accident_is_a_500_that_tells_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("service.api.classify.read_body", fail)
    response = client.post("/classify", content=b"x", headers={"content-type": "image/png"})
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/internal-error"
    assert "secret" not in response.text
