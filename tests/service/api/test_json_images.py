"""Images in JSON: every way to send them, and every way to send something else."""

from __future__ import annotations

import asyncio
import base64
import json
import textwrap
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.admission import Memory, Permit
from service.api import json_images
from service.api.json_images import Content, layout_of_classify, read_images
from service.app import create_app
from service.errors import RequestNeedsTooMuchMemory, TooManyImages
from service.json_faults import AddressAsImage, MalformedJson, NotBase64
from service.metrics import Metrics
from service.settings import Settings
from tests.service.api.client import form, problem
from tests.service.api.conftest import LIMITS
from tests.support.mutations import tried
from tests.support.waiting import until_ready

JSON = {"content-type": "application/json"}


@pytest.fixture
def text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@pytest.fixture
def memory() -> Memory:
    return Memory(10**9, Metrics())


def read(body: object, memory: Memory, max_images: int = 3) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The images and parameters of a body: JSON, or what shall become JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with Permit(memory) as permit:
        return asyncio.run(read_images(bytearray(raw), permit, layout_of_classify, max_images))


def test_one_image_and_several_are_answered_like_a_form(client: TestClient, photo: bytes, text: str) -> None:
    entry = client.post("/classify?top_k=2", files=form(photo)).json()["images"][0]
    entry.pop("file")
    one = client.post("/classify", json={"image": text, "top_k": 2})
    assert one.status_code == 200
    assert one.json()["images"] == [entry]
    assert "inference;dur=" in one.headers["server-timing"]
    several = client.post("/classify?top_k=2", json={"images": [text, {"b64": text}, f"data:image/jpeg;base64,{text}"]})
    assert several.json()["images"] == [entry] * 3


def test_parameters_are_members_as_in_the_query(client: TestClient, text: str) -> None:
    body = {"image": text, "model": "resnet8-cifar", "depth": 8, "labels": "class 3,5", "top_k": 1.0}
    answer = client.post("/classify", content=json.dumps(body), headers=JSON).json()
    assert (answer["model"], answer["restricted_to"]) == ("resnet8-cifar", ["class 3", "class 5"])
    assert len(answer["images"][0]["predictions"]) == 1
    assert client.post("/classify?model=resnet8-cifar", json={"image": text, "model": "resnet18"}).status_code == 422


def test_one_bad_image_among_many_is_an_error_for_it_alone(client: TestClient, text: str) -> None:
    found = client.post("/classify", json={"images": [text, "", "AAAA"]}).json()["images"]
    assert "predictions" in found[0]
    assert [entry["error"]["type"] for entry in found[1:]] == ["/problems/empty-image", "/problems/not-an-image"]


def test_all_calls_with_images_take_json(client: TestClient, photo: bytes, text: str) -> None:
    assert client.post("/preview", json={"image": text}).content == client.post("/preview", content=photo).content
    for path, parameters in (("/explain", {"classes": "7", "top_k": 1}), ("/embed", {"normalize": "true"})):
        answer = client.post(path, json={"image": text, **parameters})
        assert answer.status_code == 200
        assert answer.json() == client.post(path, params=parameters, content=photo).json()


@pytest.mark.parametrize(
    "form_of",
    [
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: "\r\n".join(textwrap.wrap(text, 76)) + "\n",
        lambda text: f"DATA:image/jpeg;charset=binary;BASE64,{text}",
        lambda text: f"data:;base64,{text}",
    ],
    ids=["unpadded", "url-safe", "lines", "data-url", "bare-data-url"],
)
def test_every_usual_form_of_base64(memory: Memory, photo: bytes, text: str, form_of: object) -> None:
    assert callable(form_of)
    assert read({"image": form_of(text)}, memory) == ([photo], [])


def test_escaped_slashes_as_php_writes_them(memory: Memory, photo: bytes, text: str) -> None:
    assert "/" in text
    assert read(b'{"image": "%s"}' % text.replace("/", "\\/").encode(), memory) == ([photo], [])


@tried(60)
@given(data=st.binary(max_size=200), size=st.sampled_from([4, 8, 1024]))
def test_slices_make_no_difference(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_images, "SLICE", size)
        body = {"images": [base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode().rstrip("=")]}
        assert read(body, Memory(10**9, Metrics()))[0] == [data, data]


def test_padding_within_a_text_is_refused_wherever_it_is(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_images, "SLICE", 4)
    for text in ("AA==AAAA", "AAAA=AAA", "AAA=AAAA"):
        with pytest.raises(NotBase64):
            read({"image": text}, memory)


@pytest.mark.parametrize(
    ("value", "fault", "part"),
    [
        ("https://example.com/cat.jpg", AddressAsImage, "(https:)"),
        ("s3://bucket/cat.jpg", AddressAsImage, "(s3:)"),
        ("photo.jpg", NotBase64, "the name of a file"),
        ("data:image/png,%89PNG", NotBase64, "data:image/jpeg;base64,"),
        ("not base64!", NotBase64, "other characters"),
        ("AAAA=AAA", NotBase64, "other characters"),
        ("Übung", NotBase64, "other characters"),
        ("AAAAA", NotBase64, "ends too soon"),
        (5, MalformedJson, "images[1] is a number"),
        (True, MalformedJson, "images[1] is true"),
        (None, MalformedJson, "images[1] is null"),
        ([], MalformedJson, "images[1] is an empty list"),
        ({}, MalformedJson, "images[1] is an empty object"),
        ({"url": "x"}, MalformedJson, "images[1] is an object with url"),
        ({"b64": 5}, MalformedJson, "images[1].b64 is a number"),
        ({"b64": "!"}, NotBase64, "images[1].b64 is not base64"),
    ],
)
def test_what_is_no_image_is_named(memory: Memory, value: object, fault: type[Exception], part: str) -> None:
    with pytest.raises(fault) as caught:
        read({"images": ["AAAA", value]}, memory)
    assert part in str(caught.value)
    assert "images[1]" in str(caught.value)
    assert memory.held == 0


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "EOF"),
        (b"{", "EOF"),
        (b"nonsense", "expected"),
        (b"\xef\xbb\xbf{}", "expected value"),
        (b'{"image": NaN}', "expected value"),
        (b'{"image": "\\ud800"}', "hex escape"),
        (b'{"image": "\xff"}', "unicode"),
        (b'{"image": "AAAA", "top_k": ' + b"1" * 5000 + b"}", "number out of range"),
        (b"[" * 9_000, "recursion limit"),
        (b'{"a":' * 9_000, "recursion limit"),
        (b'{"images":[' + b"{}," * 2_000_000 + b"{}]}", "more than 10024 values"),
        (b"[]", "it is an empty list, not an object"),
        (b'"text"', "it is a text, not an object"),
        (b"{}", "neither image nor images"),
        (b'{"image": "AAAA", "images": []}', "both image and images"),
        (b'{"images": []}', "images is an empty list"),
        (b'{"images": "AAAA"}', "images is a text"),
        (b'{"image": "AAAA", "top_k": "3"}', "top_k is a text, not a whole number"),
        (b'{"image": "AAAA", "top_k": 2.5}', "top_k is a number, not a whole number"),
        (b'{"image": "AAAA", "top_k": 1e999}', "top_k is a number, not a whole number"),
        (b'{"image": "AAAA", "top_k": true}', "top_k is true, not a whole number"),
        (b'{"image": "AAAA", "model": 18}', "model is a number, not a text"),
        (b'{"image": "AAAA", "labels": ["cat"]}', "labels is a list, not a text"),
        (b'{"image": "AAAA", "labels": "' + b"x" * 70_000 + b'"}', "labels has more than 65535 characters"),
    ],
)
def test_json_that_is_none_or_holds_something_else(memory: Memory, body: bytes, part: str) -> None:
    with pytest.raises(MalformedJson) as caught:
        read(body, memory)
    assert part in str(caught.value)
    assert caught.value.advice()
    assert memory.held == 0


def test_of_a_member_that_is_there_twice_the_last_counts(memory: Memory) -> None:
    assert read(b'{"image": "AAAA", "top_k": 2, "image": "", "top_k": 3}', memory) == ([b""], [("top_k", "3")])


def test_names_that_no_call_has_are_refused_like_those_of_the_query(client: TestClient, text: str) -> None:
    document = problem(client.post("/classify", json={"image": text, "tpo_k": "2"}), 422, "unknown-parameter")
    assert document["nearest"] == "top_k"
    document = problem(client.post("/classify", json={"image": text, "tpo_k": 2}), 400, "malformed-json")
    assert document["remedy"] == "Send depth and top_k as whole numbers, other parameters as texts."
    document = problem(client.post("/classify", json={"image": text, "top_k": 0}), 422, "invalid-parameter")
    assert document["value"] == "0"


def test_too_many_images(client: TestClient, memory: Memory) -> None:
    with pytest.raises(TooManyImages):
        read({"images": ["AAAA"] * 4}, memory)
    problem(client.post("/classify", json={"images": ["AAAA"] * 4}), 413, "too-many-images")


def test_limits_of_bytes(client: TestClient) -> None:
    large = base64.b64encode(bytes(LIMITS["max_image_bytes"] + 1)).decode()
    problem(client.post("/classify", json={"image": large}), 413, "image-too-large")
    problem(client.post("/classify", json={"images": [large, large]}), 413, "request-too-large")

    def chunks() -> Iterator[bytes]:
        yield b'{"image": "'
        yield from [b"A" * 100_000] * 8

    problem(client.post("/classify", content=chunks(), headers=JSON), 413, "request-too-large")
    problem(
        client.post("/classify", content=b"{}", headers={**JSON, "content-encoding": "gzip"}),
        415,
        "unsupported-encoding",
    )


def test_both_the_text_and_its_bytes_are_paid_for() -> None:
    body = b'{"image": "%s"}' % (b"A" * 100_000)
    with pytest.raises(RequestNeedsTooMuchMemory):
        read(body, Memory(len(body), Metrics()))
    memory = Memory(10**6, Metrics())
    with Permit(memory) as permit:
        held: list[int] = []

        def layout(members: Mapping[str, object]) -> Content:
            held.append(memory.held)
            return layout_of_classify(members)

        asyncio.run(read_images(bytearray(body), permit, layout, 1))
        assert held == [len(body)]  # besides the body, which `read_body` has paid for
    assert memory.held == 0


def test_a_body_that_would_never_find_memory_is_too_large(tiny_dir: Path) -> None:
    """Its texts take as much as its bytes: a budget that suits forms of this size may be too small for it."""
    limits = {"max_request_bytes": 12 * 2**20, "max_images": 1, "memory_budget": 100 * 2**20, "decode_threads": 1}
    settings = Settings.model_validate({"models_dir": tiny_dir, "provider": "cpu", "max_batch": 1, **limits})
    with TestClient(create_app(settings)) as client:
        until_ready(client)
        body = b'{"image": "%s"}' % (b"A" * 8 * 2**20)
        document = problem(client.post("/classify", content=body, headers=JSON), 413, "request-too-large")
        assert document["max_bytes"] == 100 * 2**20 // 4 // 2 // 2


def test_large_bodies_leave_the_event_loop_free(memory: Memory) -> None:
    threads: list[threading.Thread] = []

    def layout(members: Mapping[str, object]) -> Content:
        threads.append(threading.current_thread())
        return layout_of_classify(members)

    async def both() -> None:
        for size in (1_000, 100_000):
            with Permit(memory) as permit:
                await read_images(bytearray(b'{"image": "%s"}' % (b"A" * size)), permit, layout, 1)

    asyncio.run(both())
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()
