"""Who answers in place of a store or a registry: login pages, consoles, proxies. Asked once, and named."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from service.fetch import registry, transfer
from service.fetch.pages import page, page_at
from tests.service.fetch.answers import Answer, server

Fetch = Callable[..., Any]
HTML = {"Content-Type": "text/html; charset=utf-8"}
SIGN_IN = Answer(200, b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Hello</body></html>", HTML)
UNCLOSED = Answer(200, b"<html><head><meta charset=utf-8><title>Sign in</title></head><body><br></html>", HTML)
NAMED = 'a web page (text/html, "Sign in")'
DIGEST = "sha256:" + "0" * 64
ARTIFACT = b'{"layers": [{"digest": "%s", "size": 1000%s}]}'
TITLE = b', "annotations": {"org.opencontainers.image.title": "resnet50/1/card.json"}'
LISTED = b"""<ListBucketResult><Name>vision</Name><IsTruncated>false</IsTruncated><Contents>
<Key>resnet50/1/card.json</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>100</Size>
</Contents></ListBucketResult>"""


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def fault(run: Fetch, caplog: pytest.LogCaptureFixture) -> Callable[[str], str]:
    """What a run says that fails at its first attempt."""

    def fails(source: str) -> str:
        fetched = run(source)
        assert fetched.status == 1
        assert not [message for message in caplog.messages if "trying again" in message]
        (line,) = fetched.err.splitlines()
        return str(line)

    return fails


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (SIGN_IN, NAMED),
        (UNCLOSED, NAMED),
        (Answer(200, b'{"version": 3}'), "something else (Generic S3 error: Got invalid list response: "),
        (Answer(200), "something else (Generic S3 error: Got invalid list response: "),
    ],
)
def test_in_place_of_a_list(
    answer: Answer, sent: str, fault: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server({"/vision": answer, "/vision/models": answer}) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}/")
        told = fault("s3://vision/models")
    assert told.startswith(f"error: s3://vision/models cannot be read at http://{host}/: {sent}")
    assert "came in place of S3's answer, from a console, a login page or a proxy; correct AWS_ENDPOINT_URL" in told


@pytest.mark.parametrize(("answer", "sent"), [(SIGN_IN, NAMED), (Answer(200, b"{}"), "something else (Generic S3 e")])
def test_in_place_of_an_object(
    answer: Answer, sent: str, fault: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server({"/vision": Answer(200, LISTED), "/vision/resnet50/1/card.json": answer}) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        told = fault("s3://vision")
    assert told.startswith(f"error: s3://vision/resnet50/1/card.json cannot be read at http://{host}: {sent}")


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({"manifests/1": SIGN_IN}, "oci://HOST/models:1"),
        ({"manifests/1": Answer(200, ARTIFACT % (DIGEST.encode(), TITLE)), f"blobs/{DIGEST}": SIGN_IN}, DIGEST),
        ({"manifests/1": Answer(200, ARTIFACT % (DIGEST.encode(), b"")), f"blobs/{DIGEST}": SIGN_IN}, DIGEST),
        (
            {
                "manifests/1": Answer(401, headers={"WWW-Authenticate": 'Bearer realm="http://HOST/v2/models/token"'}),
                "token": SIGN_IN,
            },
            "http://HOST/v2/models/token",
        ),
    ],
)
def test_in_place_of_what_a_registry_has(answers: dict[str, Answer], what: str, fault: Callable[[str], str]) -> None:
    with server({f"/v2/models/{path}": answer for path, answer in answers.items()}) as host:
        told = fault(f"oci://{host}/models:1")
    assert f"{what.replace('HOST', host)} cannot be read: {NAMED} came in its place, from a login page or a " in told


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def untrusted(authority: trustme.CA) -> Iterator[str]:
    """A server that shows a page, with a certificate of nobody's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with server({"/vision": SIGN_IN, "/v2/models/manifests/1": SIGN_IN}, context) as host:
        yield host


@pytest.mark.parametrize("source", ["s3://vision", "oci://{}/models:1"])
def test_a_certificate_that_is_not_trusted(
    source: str,
    untrusted: str,
    authority: trustme.CA,
    fault: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{untrusted}")
    monkeypatch.setattr(registry, "LOOPBACK", re.compile("(?!)"))  # HTTPS also there
    told = fault(source.format(untrusted))
    assert "a proxy may answer in its place; if the certificate is right, set SSL_CERT_FILE to the file of" in told
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    assert NAMED in fault(source.format(untrusted))


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        (
            "text/html",
            "<TITLE lang=en>\n Log&nbsp;in &amp; pay\n</TITLE><p>x",
            'a web page (text/html, "Log in & pay")',
        ),
        ("Text/HTML", "<script>if (a<b) {}</script><!-- <p>no --><h1>Log</h1> in", 'a web page (text/html, "Log in")'),
        ("application/xhtml+xml", "", "a web page (application/xhtml+xml)"),
        ("text/html", "<title>\x1b[31mred" + "x" * 100, 'a web page (text/html, "[31mred' + "x" * 73 + '")'),
        ("text/html", "a" * 10**6, 'a web page (text/html, "' + "a" * 80 + '")'),
        ("application/json", "<html>", None),
        ("", "<html>", None),
    ],
)
def test_pages_are_named_by_their_words(kind: str, content: str, named: str | None) -> None:
    assert page(httpx.Response(200, headers={"Content-Type": kind}, content=content.encode())) == named


def test_no_page_is_where_nobody_may_read_or_nothing_answers() -> None:
    with server({"/": Answer(403, SIGN_IN.body, HTML)}) as host:
        assert page_at(f"http://{host}/") is None
    assert page_at("http://127.0.0.1:1") is None
    assert page_at("http://host:port") is None


def test_what_has_come_before_a_page_stays_for_the_next_run(
    run: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = b"a" * 600, b"b" * 400
    layer = "sha256:" + hashlib.sha256(first + second).hexdigest()
    answers = {
        "/v2/models/manifests/1": Answer(200, ARTIFACT % (layer.encode(), b"")),
        f"/v2/models/blobs/{layer}": Answer(200, first),  # and the connection ends
    }
    part = tmp_path / "models" / ".fetching" / layer.replace(":", "-")
    with server(answers) as host:
        monkeypatch.setattr(transfer, "ATTEMPTS", 1)
        assert run(f"oci://{host}/models:1").status == 1
        answers[f"/v2/models/blobs/{layer}"] = SIGN_IN
        assert NAMED in run(f"oci://{host}/models:1").err
        assert part.read_bytes() == first
        answers[f"/v2/models/blobs/{layer}"] = Answer(200, first + second)
        assert "is no tar archive" in run(f"oci://{host}/models:1").err  # it is whole
