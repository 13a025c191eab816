"""The parameters of `/classify`, in the query and in the form."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.service.api.client import form, part, problem, send


def test_unknown_model_or_depth(client: TestClient, photo: bytes) -> None:
    assert "resnet18" in str(problem(client.post("/classify?model=x", files=form(photo)), 404, "unknown-model"))
    assert "depth 50" in str(problem(client.post("/classify?depth=50", files=form(photo)), 404, "unknown-model"))


@pytest.mark.parametrize(
    "top_k", ["0", "-1", "11", "five", "5.5", "1e3", "null", "1_0", "0x5", "5,5", "\u0665", "9" * 5000]
)
@pytest.mark.parametrize("in_form", [False, True])
def test_a_wrong_top_k_is_refused_with_the_range(client: TestClient, photo: bytes, top_k: str, in_form: bool) -> None:
    given = {"depth": "8", "top_k": top_k}
    query, fields = ({}, given) if in_form else (given, {})
    response = client.post("/classify", params=query, data=fields, files=form(photo))
    document = problem(response, 422, "invalid-parameter")
    assert (document["parameter"], document["value"]) == ("top_k", top_k)
    assert document["detail"] == (
        f"top_k is '{top_k}': give a whole number from 1 to 10 (the classes of resnet8-cifar)."
    )


@pytest.mark.parametrize("depth", ["resnet8", "8.0", "-8", "null", "1_8"])
def test_a_depth_that_is_not_a_number_is_refused_with_the_depths(client: TestClient, photo: bytes, depth: str) -> None:
    document = problem(client.post(f"/classify?depth={depth}", content=photo), 422, "invalid-parameter")
    assert document["detail"] == f"depth is '{depth}': give one of the numbers 8, 18."


@pytest.mark.parametrize("top_k", ["2", "02", " 2", "2%0D%0A", "+2"])
def test_blanks_and_leading_zeros_do_not_matter(client: TestClient, photo: bytes, top_k: str) -> None:
    response = client.post(f"/classify?top_k={top_k}", content=photo)
    assert len(response.json()["images"][0]["predictions"]) == 2


def test_parameters_in_a_form_work_as_in_the_query(client: TestClient, photo: bytes) -> None:
    response = send(client, part("model", b"resnet8-cifar"), part("top_k", b"2"), part("file", photo))
    assert response.json()["model"] == "resnet8-cifar"
    assert len(response.json()["images"][0]["predictions"]) == 2
    assert send(client, part("file", photo), part("depth", b"8")).json()["model"] == "resnet8-cifar"
    assert send(client, part("file", photo), part("top_k", b"1"), query="?depth=8").json()["depth"] == 8


@pytest.mark.parametrize(
    ("fields", "query", "status", "slug"),
    [
        ([("model", "nosuch")], "", 404, "unknown-model"),
        ([("top_k", "0")], "", 422, "invalid-parameter"),
        ([("top_k", "x")], "", 422, "invalid-parameter"),
        ([("top_k", "11"), ("depth", "8")], "", 422, "invalid-parameter"),
        ([("top_k", "1")], "?top_k=2", 422, "invalid-parameter"),
        ([("top_k", "1"), ("top_k", "2")], "", 422, "invalid-parameter"),
        ([], "?top_k=1&top_k=2", 422, "invalid-parameter"),
        ([("topk", "1")], "", 422, "unknown-parameter"),
        ([], "?top=1", 422, "unknown-parameter"),
        ([], "?nonsense", 422, "unknown-parameter"),
    ],
)
def test_wrong_parameters_are_refused_wherever_they_are(
    client: TestClient, photo: bytes, fields: list[tuple[str, str]], query: str, status: int, slug: str
) -> None:
    parts = [part(name, value.encode()) for name, value in fields]
    problem(send(client, *parts, part("file", photo), query=query), status, slug)


@pytest.mark.parametrize("name", ["csrfmiddlewaretoken", "MAX_FILE_SIZE", "url", "", "layers"])
def test_no_dissimilar_name_is_suggested(client: TestClient, photo: bytes, name: str) -> None:
    in_form = send(client, part(name, b"5"), part("file", photo))
    for response in (client.post(f"/classify?{name}=5", content=photo), in_form):
        document = problem(response, 422, "unknown-parameter")
        assert document["remedy"] == "The parameters are model, depth, top_k, labels."
        assert "nearest" not in document


@pytest.mark.parametrize(
    ("name", "meant"), [("TOP_K", "top_k"), ("Top-K", "top_k"), ("modl", "model"), ("deph", "depth")]
)
def test_a_similar_name_is_suggested(client: TestClient, photo: bytes, name: str, meant: str) -> None:
    assert problem(client.post(f"/classify?{name}=1", content=photo), 422, "unknown-parameter")["nearest"] == meant


def test_an_unknown_parameter_is_named_with_the_nearest_known_one(client: TestClient, photo: bytes) -> None:
    document = problem(client.post("/classify?topk=1", content=photo), 422, "unknown-parameter")
    assert (document["parameter"], document["nearest"]) == ("topk", "top_k")
    assert document["remedy"] == "Did you mean `top_k`? The parameters are model, depth, top_k, labels."


def test_the_same_value_twice_is_allowed(client: TestClient, photo: bytes) -> None:
    assert send(client, part("file", photo), part("top_k", b"1"), query="?top_k=1").status_code == 200


def test_empty_parameters_are_ignored(client: TestClient, photo: bytes) -> None:
    for query in ("?model=", "?depth=&top_k="):
        assert client.post(f"/classify{query}", content=photo).json()["model"] == "resnet18"
    assert send(client, part("file", photo), part("model", b"")).json()["model"] == "resnet18"
