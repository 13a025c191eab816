"""A client that openapi-python-client generates from the OpenAPI document of a running service."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import Classification, Explanation, Model, Outcome, Preview, Problem, Refused, results
from service.client.images import read_image

GENERATOR = "openapi-python-client==0.29.1"
PACKAGE = "generated_resnet_client"
# As docs/client.md says: the generator knows no images, and sends such bodies as they are.
CONFIG = """\
content_type_overrides:
  image/jpeg: application/octet-stream
  image/png: application/octet-stream
  image/webp: application/octet-stream
post_hooks: []
"""


def generate(url: str, folder: Path) -> None:
    """Writes the package into the folder. Skips the test if the generator cannot be installed."""
    environment = folder / "generator"
    venv.create(environment, with_pip=True)
    install = [environment / "bin" / "pip", "install", "--quiet", GENERATOR]
    try:
        subprocess.run(install, capture_output=True, text=True, timeout=180, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{GENERATOR} cannot be installed: {str(error.stderr)[-300:]}")
    (folder / "config.yml").write_text(CONFIG)
    command = [environment / "bin" / "openapi-python-client", "generate", "--url", f"{url}/openapi.json"]
    command += ["--meta", "none", "--output-path", folder / PACKAGE, "--config", folder / "config.yml"]
    generated = subprocess.run([*command, "--fail-on-warning"], capture_output=True, text=True, timeout=100)
    assert generated.returncode == 0, generated.stdout + generated.stderr


class Generated:
    """The generated client behind the methods of `service.client.Client`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = str(folder)
        sys.path.insert(0, self._folder)
        self._client = _module("client").Client(base_url=url)

    def __enter__(self) -> Generated:
        self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.__exit__(*error)
        sys.path.remove(self._folder)

    def classify(self, image: Any, **parameters: Any) -> Classification:
        """Sends the image as it is."""
        response = self._call("classification.classify", body=_file(image), **_listed(parameters))
        timing = response.headers.get("Server-Timing", "")
        return results.classification(response.parsed.to_dict(), timing, response.headers["X-Request-ID"])

    def classify_many(self, images: Iterable[Any], **parameters: Any) -> list[Outcome[Classification]]:
        """Sends a form with all images."""
        given = list(images)
        form = _module("models.classify_files_body").ClassifyFilesBody(file=[_file(image) for image in given])
        response = self._call("classification.classify", body=form, **parameters)
        document = response.parsed.to_dict()
        outcomes = []
        for number, (image, entry) in enumerate(zip(given, document["images"], strict=True)):
            if "error" in entry:
                problem = Problem.read(entry["error"])
                outcomes.append(Outcome[Classification](number, image, error=Refused(str(problem), problem)))
            else:
                answer = results.classification({**document, "images": [entry]}, "", "")
                outcomes.append(Outcome(number, image, answer))
        return outcomes

    def explain(self, image: Any, **parameters: Any) -> Explanation:
        response = self._call("explanation.explain", body=_file(image), **_listed(parameters))
        return results.explanation(response.parsed.to_dict(), response.headers["X-Request-ID"])

    def embed(self, images: Iterable[Any], *, normalize: bool = False, **parameters: Any) -> NDArray[np.float32]:
        """As JSON: the generator knows one form of answer for each call, and takes the first."""
        form = _module("models.embed_files_body").EmbedFilesBody(file=[_file(image) for image in images])
        wanted = _module("models.embed_normalize").EmbedNormalize("true" if normalize else "false")
        document = self._call("explanation.embed", body=form, normalize=wanted, **parameters).parsed.to_dict()
        return np.array([entry["embedding"] for entry in document["images"]], np.float32)

    def preview(self, image: Any, **parameters: Any) -> Preview:
        response = self._call("classification.preview", body=_file(image), **parameters)
        return Preview(response.parsed.payload.read(), response.headers["X-Model"], response.headers["X-Decoded"])

    def models(self) -> tuple[Model, ...]:
        return results.models(self._call("models.list_models").parsed.to_dict())

    def ready(self) -> bool:
        return bool(self._call("operations.readiness").status_code == 200)

    def _call(self, operation: str, **arguments: Any) -> Any:
        """The response. Raises Refused."""
        response = _module(f"api.{operation}").sync_detailed(client=self._client, **arguments)
        if 400 <= response.status_code < 500:
            problem = Problem.read(response.parsed.to_dict())
            raise Refused(str(problem), problem, problem.request_id)
        return response


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def _file(image: Any) -> Any:
    return _module("types").File(payload=io.BytesIO(read_image(image)), file_name="image.jpg")


def _listed(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()}
