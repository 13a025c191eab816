"""Classifies on a server, through `service.client`. Needs neither an engine nor the server's packages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.bulk.rows import Answer, Problem
from service.bulk.stream import Ended, Unusable
from service.client import AsyncClient, Classification, Failed, Model, Prediction, Refused, ResnetError
from service.client import Problem as Document

DEADLINE_S = 120.0  # for one image, with all tries: a server that restarts meanwhile ends no run
RETRIES = 15
# Failures that the image itself may cause: they are its answer. After the others, all images would fail.
OF_THE_IMAGE = ("computation-failed", "internal-error")


class RemoteClassifier:
    """A model of a server. A `Classifier`."""

    def __init__(
        self,
        client: AsyncClient,
        model: Model,
        reference: str | None,
        top_k: int | None,
        labels: str | None,
        at_once: int,
        explains: bool,
    ) -> None:
        """
        Args:
            explains: answer with overlays, too.
            model: the one that `reference` means, as the server says.
            labels: the only classes that come into question, separated by commas.
        """
        self.model = model.name
        self.version = model.version
        self.at_once = at_once
        self._client = client
        self._explains = explains
        self._reference = reference
        self._top_k = top_k
        self._labels = None if labels is None else [part for part in map(str.strip, labels.split(",")) if part]

    async def classify(self, image: bytes) -> Answer:
        try:
            found = await self._client.classify(image, model=self._reference, top_k=self._top_k, labels=self._labels)
            overlay = await self._overlay(image, found) if self._explains else None
        except Refused as error:
            if error.whatever_the_image:
                raise Ended(str(error)) from None
            return self._without(error.problem)
        except ResnetError as error:
            if error.problem and error.problem.slug in OF_THE_IMAGE:
                return self._without(error.problem)
            raise Ended(f"{error}: go on with --resume once the server answers again") from None
        return Answer(found.model, found.version, _entry(found), overlay)

    async def _overlay(self, image: bytes, found: Classification) -> bytes:
        return await self._client.explain_png(image, model=self._reference, label=found.best.class_id)

    def _without(self, said: Document) -> Answer:
        problem = Problem(said.slug, said.title, said.detail, said.remedy)
        return Answer(self.model, self.version, problem.entry())


@asynccontextmanager
async def connected(
    url: str,
    *,
    api_key_file: Path | None,
    ca_file: Path | None,
    at_once: int,
    model: str | None,
    depth: int | None,
    labels: str | None,
    top_k: int | None,
    explains: bool = False,
) -> AsyncIterator[RemoteClassifier]:
    """Connects to a server.

    Args:
        api_key_file: holds an API key of the server.
        ca_file: certificates that the server's must descend from.
        at_once: requests at the same time.
        model, depth, labels, top_k: as for `/classify`.
        explains: answer with overlays, too.

    Raises:
        Unusable: it cannot be reached, or it has no such model.
    """
    async with _client(url, api_key_file, ca_file) as client:
        try:
            found = _find(await client.models(deadline=10.0), model, depth)
        except Failed as error:
            raise Unusable(f"{error}: give the address of a server, such as http://127.0.0.1:8000") from None
        except ResnetError as error:
            raise Unusable(f"{url}: {error}: check the address, and whether the server runs") from None
        # By name: the server's default may change meanwhile.
        yield RemoteClassifier(client, found, model or found.name, top_k, labels, at_once, explains)


def _client(url: str, api_key_file: Path | None, ca_file: Path | None) -> AsyncClient:
    """Raises Unusable."""
    try:
        key = api_key_file.read_text().strip() if api_key_file else None
        return AsyncClient(url, api_key=key, deadline=DEADLINE_S, retries=RETRIES, verify=ca_file or True)
    except OSError as error:  # ssl does not say which file
        raise Unusable(f"{error.filename or ca_file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise Unusable(str(error)) from None


def _find(models: tuple[Model, ...], reference: str | None, depth: int | None) -> Model:
    """The model that a request means. Raises Unusable."""
    if reference is not None:
        fitting = [model for model in models if reference in (*model.references, f"{model.name}@{model.version}")]
    elif depth is not None:
        fitting = [model for model in models if model.depth == depth]
        fitting = [model for model in fitting if model.default] or fitting
    else:
        fitting = [model for model in models if model.default]
    if len({model.name for model in fitting}) == 1:
        return fitting[0]
    wanted = f"model {reference}" if reference else f"model of depth {depth}" if depth else "default model"
    names = ", ".join(f"{model.name} (depth {model.depth})" for model in models)
    raise Unusable(f"the server has {'several' if fitting else 'no'} {wanted}: choose one with --model: {names}")


def _entry(found: Classification) -> dict[str, Any]:
    """The image's entry in the answer to `/classify`."""
    entry: dict[str, Any] = {"width": found.width, "height": found.height}
    if found.rejected is not None:
        entry |= {"rejected": found.rejected, "label": found.label}
    if found.mass is not None:
        entry["mass"] = found.mass
    entry["predictions"] = _listed(found.predictions)
    if found.labels is not None:
        entry["labels"] = _listed(found.labels)
    return entry


def _listed(predictions: tuple[Prediction, ...]) -> list[dict[str, Any]]:
    return [asdict(prediction) for prediction in predictions]
