"""Problem documents beyond `/classify`."""

from __future__ import annotations

import string

import pytest
from starlette.testclient import TestClient

from service import errors
from service.api.problems import STATUS, document, headers_of
from service.errors import fault_types
from service.runtime.faults import Fault

ALL = list(fault_types())


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_documents_have_the_members_of_rfc_9457_and_a_remedy(cls: type[Fault]) -> None:
    fields = {name for _, name, _, _ in string.Formatter().parse(cls.detail + cls.remedy) if name}
    found = document(cls(**dict.fromkeys(fields | {"width"}, 3)), "/vision")
    assert found["type"] == f"/vision/problems/{cls.slug}"
    assert found["status"] == STATUS[cls]
    assert found["width"] == 3
    for member in ("title", "detail", "remedy"):
        assert found[member]
        assert "{" not in str(found[member])


def test_every_fault_has_a_status_which_blames_the_right_side() -> None:
    assert set(STATUS) == set(ALL)
    for cls, status in STATUS.items():
        assert 400 <= status <= 599
        assert (status >= 500) == issubclass(cls, errors.ServerFault)


def test_headers() -> None:
    assert headers_of(errors.Overloaded.by(3.2, 1.0)) == {"Retry-After": "3"}
    assert headers_of(errors.MethodNotAllowed(path="/", method="PUT", allowed="GET")) == {"Allow": "GET"}
    assert headers_of(errors.NoImage(found="nothing")) == {}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_type_has_a_page(client: TestClient, cls: type[Fault]) -> None:
    response = client.get(f"/problems/{cls.slug}")
    assert response.status_code == 200
    assert response.text.startswith(f"{cls.title} (HTTP status {STATUS[cls]})")
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

    monkeypatch.setattr("service.api.intake.read_parameters", fail)
    response = client.post("/classify", content=b"x", headers={"content-type": "image/png"})
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/internal-error"
    assert "secret" not in response.text
