"""The OpenAPI document, and the policy of the page `/docs`.

tests/e2e/test_openapi.py compares the document with the service; tests/e2e/test_docs_page.py opens the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import fault_types
from service.model_repository import open_repository
from service.settings import Settings


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


def test_every_call_names_what_may_become_of_any_call(client: TestClient) -> None:
    for path in client.get("/openapi.json").json()["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            assert {"400", "408", "414", "431", "500", "503"} <= responses.keys()
            assert "application/problem+json" in responses["503"]["content"]


def test_every_problem_of_a_call_has_an_example_with_its_status(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    examples = document["components"]["examples"]
    assert set(examples) == {fault.slug for fault in fault_types()}
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if problems := response.get("content", {}).get("application/problem+json"):
                    assert problems["examples"]
                    for slug, reference in problems["examples"].items():
                        assert reference == {"$ref": f"#/components/examples/{slug}"}
                        assert examples[slug]["value"]["status"] == int(status)


@pytest.mark.parametrize(
    ("call", "request_", "slug"),
    [
        ("/classify", {"content": b""}, "empty-image"),
        ("/classify", {"content": b"GIF89a" + bytes(99)}, "unsupported-image-format"),
        ("/classify", {"content": b"<!doctype html>"}, "not-an-image"),
        ("/classify", {"content": b"photo.jpg"}, "file-name-as-image"),
        ("/classify", {"content": b"--x\r\nContent-Disposition: form-data"}, "form-as-image"),
        ("/classify", {"content": bytes(300_001)}, "image-too-large"),
        ("/classify", {"content": b"x", "headers": {"Content-Type": "text/html"}}, "unsupported-media-type"),
        ("/classify", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}, "unsupported-encoding"),
        ("/classify", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "malformed-request"),
        (
            "/classify",
            {"content": b"--x--", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            "no-image",
        ),
        ("/explain", {"json": {"images": ["aaaa", "aaaa"]}}, "several-images"),
        ("/classify", {"files": [("file", ("a", b"a"))] * 4}, "too-many-images"),
        ("/classify", {"json": []}, "malformed-json"),
        ("/classify", {"json": {"image": "photo.jpg"}}, "not-base64"),
        ("/classify", {"json": {"image": "https://example.com/a.jpg"}}, "address-as-image"),
        ("/classify?model=resnet34", {"content": b"x"}, "unknown-model"),
        ("/classify?top_k=0", {"content": b"x"}, "invalid-parameter"),
        ("/classify?topk=1", {"content": b"x"}, "unknown-parameter"),
        ("/clasify", {"content": b"x"}, "not-found"),
        ("/models", {"content": b"x"}, "method-not-allowed"),
        ("/models/reload", {}, "call-closed"),
    ],
)
def test_the_examples_are_what_the_service_answers(
    client: TestClient, call: str, request_: dict[str, Any], slug: str
) -> None:
    """With the same members of the same types, and the words of the fault."""
    example = client.get("/openapi.json").json()["components"]["examples"][slug]["value"]
    response = client.post(call, **request_)
    answer = response.json()
    assert (response.status_code, answer["type"]) == (example["status"], example["type"])
    assert {name: type(value) for name, value in answer.items()} == {
        name: type(value) for name, value in example.items()
    }
    fault = next(fault for fault in fault_types() if fault.slug == slug)
    assert example["detail"] == fault.detail.format(**example)
    assert (answer["title"], answer["detail"]) == (example["title"], fault.detail.format(**answer))


@pytest.mark.parametrize("path", ["/models/{name}", "/models/{name}/labels", "/problems/{slug}"])
def test_calls_with_a_name_say_that_it_may_be_unknown_and_cannot_be_invalid(client: TestClient, path: str) -> None:
    document = client.get("/openapi.json").json()
    responses = document["paths"][path]["get"]["responses"]
    assert "application/problem+json" in responses["404"]["content"]
    assert "422" not in responses
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_parameters_have_bounds_in_query_and_form(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/classify"]["post"]
    given = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    assert given["model"]["type"] == "string"  # without null, which would be a name
    bounds = {name: (schema.get("minimum"), schema.get("maximum")) for name, schema in given.items()}
    assert bounds == {
        "model": (None, None),
        "depth": (1, 999_999_999),
        "top_k": (1, 1000),  # of resnet18
        "labels": (None, None),
        "X-Request-Timeout-Ms": (1, 999_999_999),
    }
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["patternProperties"]["^top_k$"]["maximum"] == 1000
    assert (form["properties"]["file"]["minItems"], form["properties"]["file"]["maxItems"]) == (1, 3)
    assert form["additionalProperties"] is False


def test_the_largest_top_k_follows_the_models(tiny_dir: Path) -> None:
    settings = Settings(models_dir=tiny_dir)
    repository = open_repository(settings)
    only = open_repository(Settings(models_dir=tiny_dir, models=("resnet8-cifar",)))
    app = create_app(settings, repository)

    def largest() -> int:
        parameters = app.openapi()["paths"]["/classify"]["post"]["parameters"]
        (found,) = (one["schema"]["maximum"] for one in parameters if one["name"] == "top_k")
        return int(found)

    assert largest() == 1000
    repository.listing = only.listing  # as when the folder of resnet18 is removed
    assert largest() == 10


def test_methods_of_a_path_are_its_own(client: TestClient) -> None:
    """Not those of /models/{name}, which matches, too."""
    response = client.put("/models/reload")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_operations_have_the_names_that_generated_clients_want(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert {"classify", "preview", "list_models", "get_model", "get_labels"} <= set(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch("[a-z_]+", name), name
