"""A real OCI registry (Debian's docker-registry), and how models are pushed there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import free_port, request
from tests.support.waiting import until

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
USER, PASSWORD = "resnet", "secret"
BCRYPTED = "$2b$04$Vcbe5zm6/KJM9LsTmvUPNOXXK0Wiv1U9CKl2P0rOIRitOEBEEGbJu"  # the password, for the registry


def require_registry() -> None:
    """Skips the test where docker-registry is not installed; fails it in CI."""
    if shutil.which("docker-registry") is None:
        message = "docker-registry is not installed: run `make tools`"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def registry(folder: Path, *, login: bool = False) -> Iterator[str]:
    """A registry that keeps its blobs in a folder. Yields its host and port."""
    require_registry()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if login:
        (folder / "htpasswd").write_text(f"{USER}:{BCRYPTED}\n")
        config["auth"] = {"htpasswd": {"realm": "models", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "registry.log").open("w") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=output, stderr=subprocess.STDOUT
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "registry.log").read_text()
            try:
                return request("GET", f"http://127.0.0.1:{port}/v2/").status_code in (200, 401)
            except httpx.TransportError:
                return False

        until(answers, 60)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def push(
    reference: str, layers: Sequence[tuple[bytes, Mapping[str, str]]], login: tuple[str, str] | None = None
) -> str:
    """Pushes an artifact to `HOST/REPOSITORY:TAG`, as `oras push` does. Returns the digest of its manifest.

    Args:
        layers: the content of each, and its annotations.
    """
    described = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": push_blob(reference, content, login),
            "size": len(content),
            "annotations": dict(annotations),
        }
        for content, annotations in layers
    ]
    config = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": push_blob(reference, b"{}", login),
        "size": 2,
    }
    return push_manifest(
        reference, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described}, login
    )


def push_blob(reference: str, content: bytes, login: tuple[str, str] | None = None) -> str:
    base, _ = _address(reference)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    begun = request("POST", f"{base}/blobs/uploads/", auth=login)
    assert begun.status_code == 202, begun.text
    separator = "&" if "?" in begun.headers["Location"] else "?"
    address = f"{begun.headers['Location']}{separator}digest={digest}"
    done = request("PUT", address, content=content, auth=login)
    assert done.status_code == 201, done.text
    return digest


def push_manifest(reference: str, manifest: Mapping[str, Any], login: tuple[str, str] | None = None) -> str:
    base, tag = _address(reference)
    content = json.dumps(manifest).encode()
    headers = {"content-type": str(manifest["mediaType"])}
    done = request("PUT", f"{base}/manifests/{tag}", content=content, headers=headers, auth=login)
    assert done.status_code == 201, done.text
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _address(reference: str) -> tuple[str, str]:
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.partition(":")
    return f"http://{host}/v2/{repository}", tag
