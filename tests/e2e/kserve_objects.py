"""Builds the objects of standard input (a JSON list) with KServe's own models, and prints their kinds.

Fails on a field that a model does not have, lacks or does not take.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve
import kubernetes.client

PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object}


def build(kind: str, value: Any, path: str) -> Any:
    """The value as this model, or as this plain type."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        return [build(match[1], one, f"{path}[{number}]") for number, one in enumerate(value)]
    if match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {key: build(match[1], one, f"{path}.{key}") for key, one in value.items()}
    if kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{path} is not of type {kind}: {value!r}"
        return value
    model = getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None or not isinstance(value, dict):  # such as quantities
        return value
    names = {key: name for name, key in model.attribute_map.items()}
    unknown = value.keys() - names.keys()
    assert not unknown, f"{path} has unknown fields: {', '.join(sorted(unknown))}"
    fields = {names[key]: build(model.openapi_types[names[key]], one, f"{path}.{key}") for key, one in value.items()}
    return model(**fields)


for document in json.load(sys.stdin):
    version = document["apiVersion"].rpartition("/")[2]
    build(f"{version.capitalize()}{document['kind']}", document, document["kind"])
    print(document["kind"])
