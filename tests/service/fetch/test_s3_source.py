"""Models in a bucket: of a real S3 server, on good connections and broken ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.fetch import transfer
from service.runtime.model_state import read_folder_state, read_state
from tests.support.buckets import KEY, SECRET, Breaking, s3_server
from tests.support.folders import whole
from tests.support.waiting import until

Fetch = Callable[..., Any]
SOURCE = "s3://vision/production/models"
WHOLE = 1_500_000  # bytes of a model file, see `enlarge`


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3") / "data"


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[str]:
    (data / "vision").mkdir(parents=True)
    with s3_server(data) as address:
        yield address


@pytest.fixture
def bucket(data: Path, server: str, published: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published models in the bucket, and the environment that leads there."""
    shutil.rmtree(data / "vision")
    copy = shutil.copytree(published, data / "vision" / "production" / "models")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return copy


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("source", [SOURCE, f"{SOURCE}/"])
def test_models_of_a_bucket_arrive_with_aliases_and_default(source: str, tmp_path: Path, run: Fetch) -> None:
    assert run(source).status == 0
    root = tmp_path / "models"
    assert whole(root) == ["resnet20-cifar@1", "resnet8-cifar@1", "resnet8-cifar@2"]
    assert read_state(root / "resnet8-cifar").aliases == {"stable": 1, "canary": 2}
    assert read_folder_state(root).default == "resnet20-cifar"
    assert run(source).out.count("is there") == 3


def test_a_new_version_is_all_that_a_later_run_fetches(
    bucket: Path, server: str, tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(SOURCE)
    state = bucket / "resnet8-cifar" / "model.json"
    state.write_text(state.read_text().replace('"stable": 1', '"stable": 3'))
    proxy = Breaking(server, 0, times=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    assert run(SOURCE).status == 0
    assert "resnet8-cifar@3" in whole(tmp_path / "models")
    assert read_state(tmp_path / "models" / "resnet8-cifar").aliases == {"stable": 3, "canary": 2}
    assert WHOLE < proxy.passed < 1.5 * WHOLE
    proxy.close()


@pytest.mark.parametrize(
    ("changes", "source", "fault"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, SOURCE, "(SignatureDoesNotMatch): set AWS_ACCESS_KEY_ID and "),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, SOURCE, "(InvalidAccessKeyId): set AWS_ACCESS_KEY_ID and "),
        ({"AWS_SKIP_SIGNATURE": "true"}, SOURCE, "cannot be read at http://127.0.0.1:"),
        ({}, "s3://nobodys/models", "there is no bucket nobodys at http://127.0.0.1:"),
        ({}, "s3://vision/staging", "s3://vision/staging holds no models: it should have files like "),
        ({}, "s3://vision", "s3://vision holds no models: it should have files like "),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, SOURCE, "cannot be read at http://127.0.0.1:1 ("),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, SOURCE, "AWS_ENDPOINT_URL is 'minio:9000': give an address like https://"),
        ({"AWS_ENDPOINT_URL": "http://host:99999"}, SOURCE, "AWS_ENDPOINT_URL is 'http://host:99999': give an address"),
        ({"AWS_ENDPOINT_URL": "http://[::1"}, SOURCE, "AWS_ENDPOINT_URL is 'http://[::1': give an address"),
        ({"AWS_ACCESS_KEY_ID": f"{KEY}\n"}, SOURCE, "AWS_ACCESS_KEY_ID holds a line break or another invisible "),
        ({"AWS_SKIP_SIGNATURE": "perhaps"}, SOURCE, "as boolean): correct the AWS_ variables"),
        ({}, "s3://my bucket/models", "s3://my bucket/models names no bucket: give s3://BUCKET/PREFIX"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_what_is_wrong_with_the_address_or_the_keys_is_said(
    changes: dict[str, str], source: str, fault: str, tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    fetched = run(source)
    assert fetched.status == 1
    assert fault in fetched.err
    assert len(fetched.err.splitlines()) == 1
    assert whole(tmp_path / "models") == []


def test_a_truncated_object_is_refused(bucket: Path, tmp_path: Path, run: Fetch) -> None:
    path = bucket / "resnet8-cifar" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[: WHOLE // 2])
    fetched = run(SOURCE)
    assert fetched.status == 1
    assert f"{SOURCE}/resnet8-cifar/1/model.onnx has {WHOLE // 2} bytes with SHA-256 " in fetched.err
    assert whole(tmp_path / "models") == ["resnet20-cifar@1", "resnet8-cifar@2"]
    assert not (tmp_path / "models" / ".fetching").exists()


class Refusing(BaseHTTPRequestHandler):
    """A store that answers every request with the server's `status` and `body`."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked += 1
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("source", ["s3://models", "s3://models/eu-region/m", "s3://region-models/NoSuchBucket"])
@pytest.mark.parametrize(
    ("status", "code", "message", "fault"),
    [
        (500, "InternalError", "in this region", None),
        (503, "", "", None),
        (429, "SlowDown", "", None),
        (301, "PermanentRedirect", "", "is in another region: set AWS_REGION to that of the bucket "),
        (
            400,
            "AuthorizationHeaderMalformed",
            "the region 'us-east-1' is wrong",
            "is in another region: set AWS_REGION",
        ),
        (400, "IllegalLocationConstraintException", "", "is in another region: set AWS_REGION to that of the bucket "),
        (400, "AuthorizationHeaderMalformed", "no such key", "(AuthorizationHeaderMalformed): "),
        (404, "NoSuchKey", "", "does not exist at http://127.0.0.1:"),
        (404, "NoSuchBucket", "", "there is no bucket "),
    ],
)
def test_what_the_store_says_is_not_mixed_up_with_the_address(
    source: str, status: int, code: str, message: str, fault: str | None, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fault`: None if it may pass, and is tried again."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as store:
        told: Any = store
        told.asked, told.status = 0, status
        told.body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
        thread = threading.Thread(target=store.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.server_address[1]}")
        monkeypatch.setattr(transfer, "ATTEMPTS", 2)
        fetched = run(source)
        store.shutdown()
        thread.join()
    assert fetched.status == 1
    assert (fault or f"({code or f'HTTP {status}'}): check the network") in fetched.err
    assert told.asked == (1 if fault else 2)


@pytest.mark.usefixtures("bucket")
def test_without_an_endpoint_the_bucket_is_one_of_aws(
    tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nothing leaves this machine
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    fetched = run(SOURCE)
    assert fetched.status == 1
    assert "https://s3.us-east-1.amazonaws.com/vision?" in fetched.err


@pytest.mark.usefixtures("bucket")
def test_broken_connections_are_resumed_where_they_broke(
    server: str, tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Breaking(server, WHOLE // 3, times=2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    assert run(SOURCE, "--models=resnet8-cifar@1").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@1"]
    assert sum("trying again in " in message for message in caplog.messages) == 2
    assert proxy.passed < 1.5 * WHOLE  # what had come was not sent again
    proxy.close()


@pytest.mark.usefixtures("bucket")
def test_after_the_last_attempt_the_next_run_goes_on(
    server: str, tmp_path: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    proxy = Breaking(server, WHOLE // 2, times=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    fetched = run(SOURCE, "--models=resnet8-cifar@1")
    assert fetched.status == 1
    assert "check the network, and run again to go on where this ended" in fetched.err
    assert whole(tmp_path / "models") == []
    assert run(SOURCE, "--models=resnet8-cifar@1").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@1"]
    assert proxy.passed < 1.5 * WHOLE
    proxy.close()


@pytest.mark.usefixtures("bucket")
def test_a_process_killed_in_the_middle_shows_nothing_and_the_next_one_goes_on(server: str, tmp_path: Path) -> None:
    root = tmp_path / "models"
    command = [sys.executable, "-m", "service.fetch", SOURCE, f"--models-dir={root}", "--models=resnet8-cifar@1"]
    stalling = Breaking(server, WHOLE // 2, times=1, stalls=True)
    killed = subprocess.Popen(command, env={**os.environ, "AWS_ENDPOINT_URL": stalling.address})
    part = root / ".fetching" / "resnet8-cifar" / "1" / "model.onnx"
    until(lambda: part.exists() and part.stat().st_size > WHOLE // 4, 120)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert whole(root) == []
    stalling.close()

    counting = Breaking(server, 0, times=0)
    again = subprocess.run(
        command, env={**os.environ, "AWS_ENDPOINT_URL": counting.address}, capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    assert whole(root) == ["resnet8-cifar@1"]
    assert counting.passed < 0.9 * WHOLE
    assert not (root / ".fetching").exists()
    counting.close()


@pytest.mark.usefixtures("bucket")
def test_a_beginning_of_another_file_is_thrown_away(bucket: Path, tmp_path: Path, run: Fetch) -> None:
    left = tmp_path / "models" / ".fetching" / "resnet8-cifar" / "1"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"\x00" * (WHOLE // 2))
    assert run(SOURCE, "--models=resnet8-cifar@1").status == 0
    assert whole(tmp_path / "models") == ["resnet8-cifar@1"]


def test_what_was_fetched_is_served(
    server: str,
    data: Path,
    tiny_dir: Path,
    photo: bytes,
    tmp_path: Path,
    run: Fetch,
    start_service: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_dir, data / "tiny", dirs_exist_ok=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert run("s3://tiny").status == 0
    service = start_service(tmp_path / "models", provider="cpu", max_batch=1)
    assert service.classify(photo).json()["model"] == "resnet8-cifar"
