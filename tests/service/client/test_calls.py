from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pytest

from service.client import calls
from service.client.calls import Answer


def answer(content: bytes, **headers: str) -> Answer:
    return Answer(200, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), content)


def test_only_what_is_given_is_sent() -> None:
    assert calls.classify(b"", None, None, None, None).parameters == {}
    given = calls.classify(b"", "resnet50@3", 50, 2, ["tabby", 7]).parameters
    assert given == {"model": "resnet50@3", "depth": "50", "top_k": "2", "labels": "tabby,7"}
    assert calls.classify(b"", None, None, None, "tabby").parameters == {"labels": "tabby"}
    assert calls.explain(b"", None, None, 7, None).parameters == {"classes": "7"}
    assert calls.explain_png(b"", None, None, None).parameters == {"format": "png"}


def test_classes_that_no_query_can_name() -> None:
    with pytest.raises(ValueError, match=r"'a, b' has a comma.*by its id"):
        calls.classify(b"", None, None, None, ["a, b"])
    with pytest.raises(ValueError, match="empty"):
        calls.explain(b"", None, None, [], None)


def test_an_explanation() -> None:
    document = {
        "model": "m",
        "depth": 18,
        "version": 2,
        "provider": "cpu",
        "precision": "fp32",
        "image": {"width": 4, "height": 3, "box": [-1, 0, 5, 3.5]},
        "explanations": [
            {"class_id": 1, "label": "a", "probability": 0.9, "logit": 2.5, "bias": 0.5, "map": [[1, 2], [3, 2]]}
        ],
    }
    found = calls.explain(b"", None, None, None, None).read(answer(json.dumps(document).encode(), X_Request_ID="id"))
    assert (found.version, found.request_id, found.width, found.box) == (2, "id", 4, (-1, 0, 5, 3.5))
    (one,) = found.classes
    assert (one.map.dtype, one.map.shape) == (np.float32, (2, 2))
    assert one.map.mean() + one.bias == one.logit


def test_an_embedding() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((1, 5), np.float32))
    call = calls.embed(b"", None, None, False)
    assert call.parameters == {"normalize": "false", "format": "npy"}
    assert call.read(answer(buffer.getvalue())).shape == (1, 5)
    with pytest.raises(ValueError, match="pickle"):
        call.read(answer(b"<html>"))


def test_pictures() -> None:
    png = b"\x89PNG\r\n..."
    assert calls.explain_png(b"", None, None, 1).read(answer(png)) == png
    preview = calls.preview(b"", None, 18).read(answer(png, X_Model="m@1", X_Decoded="width=1"))
    assert (preview.png, preview.model, preview.decoded) == (png, "m@1", "width=1")
    with pytest.raises(ValueError, match="not a PNG"):
        calls.explain_png(b"", None, None, 1).read(answer(b"<html>"))


def test_members_that_nobody_knows_do_no_harm() -> None:
    entry = {
        "name": "m",
        "version": 1,
        "depth": 18,
        "references": ["m"],
        "default": True,
        "classes": 10,
        "state": "napping",
        "provider": None,
        "precision": None,
        "more": 1,
    }
    (model,) = calls.models().read(answer(json.dumps({"models": [entry], "more": 2}).encode()))
    assert (model.name, model.references, model.default, model.state) == ("m", ("m",), True, "napping")
    assert model.document["more"] == 1
