"""What is counted and shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from starlette.testclient import TestClient

from service import metrics
from service.app import create_app
from service.metrics import Metrics
from service.settings import Settings
from tests.support.waiting import until_ready


def run(program: str, **environment: str) -> str:
    """What a program prints, in a process that has imported nothing yet."""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return finished.stdout


LABELS = {"model": "net", "version": "1", "depth": "18", "variant": "v1", "provider": "cpu", "compute": "fp32"}


def shown(text: str) -> list[str]:
    return [line.split()[-1] for line in text.splitlines() if line.startswith("resnet_model_info{")]


def test_a_model_is_shown_until_all_that_share_its_labels_have_gone() -> None:
    """A version that is published again under its number is ready before the old one goes."""
    found = metrics.Metrics()
    seen = []
    for step in (found.model_is_ready, found.model_is_ready, found.model_is_gone, found.model_is_gone):
        step(**LABELS)
        seen.append(shown(found.text().decode()))
    assert seen == [["1.0"], ["1.0"], ["1.0"], []]


def states(text: str) -> dict[str, str]:
    """The value of each state, by name, version and state."""
    found = re.findall(r'resnet_model_state{model="(.*?)",version="(.*?)",state="(.*?)"} (.*)', sorted_labels(text))
    return {f"{model} {version} {state}": value for model, version, state, value in found}


def sorted_labels(text: str) -> str:
    """Labels in the order of their declaration; files keep them by name."""
    return re.sub(r'{model="(.*?)",state="(.*?)",version="(.*?)"}', r'{model="\1",version="\3",state="\2"}', text)


def test_each_version_has_one_state() -> None:
    found = Metrics()
    found.show_states([("net", "1", "ready"), ("net", "2", "loading")])
    found.show_states([("net", "1", "ready"), ("net", "2", "failed")])
    assert states(found.text().decode()) == {"net 1 ready": "1.0", "net 2 failed": "1.0"}
    found.show_states([])
    assert states(found.text().decode()) == {}


def test_a_state_that_was_left_shows_0_where_its_series_cannot_be_removed() -> None:
    program = """
from service import counter_files, metrics
with counter_files.count_together():
    found = metrics.Metrics()
    found.show_states([("net", "1", "loading")])
    found.show_states([("net", "1", "ready")])
    print(found.text().decode())
"""
    assert states(run(program)) == {"net 1 loading": "0.0", "net 1 ready": "1.0"}


def test_a_model_that_has_gone_shows_0_where_its_series_cannot_be_removed() -> None:
    program = f"""
import warnings
from service import counter_files, metrics
warnings.simplefilter("error")
with counter_files.count_together():
    found = metrics.Metrics()
    ready, gone = found.model_is_ready, found.model_is_gone
    for step in (ready, ready, gone, gone, ready):
        step(**{LABELS})
        print(found.text().decode())
"""
    assert shown(run(program)) == ["1.0", "1.0", "1.0", "0.0", "1.0"]


def test_the_edges_of_durations_can_be_chosen() -> None:
    found = Metrics(buckets=(0.02, 0.3))
    found.stages.labels("net", "total").observe(0.1)
    found.http.labels("classify", 200).observe(0.1)
    for name in ("resnet_stage_seconds_bucket", "resnet_http_request_seconds_bucket"):
        edges = [line for line in found.text().decode().splitlines() if line.startswith(name)]
        assert [re.sub(r'.*le="([^"]+)".* ', r"\1 ", line) for line in edges] == ["0.02 0.0", "0.3 1.0", "+Inf 1.0"]


def test_the_classes_of_small_models_are_counted(tiny_dir: Path, photo: bytes) -> None:
    """Not those of a model with a thousand: each is a series."""
    with TestClient(create_app(Settings(models_dir=tiny_dir, provider="cpu", max_batch=1))) as client:
        until_ready(client)
        best = client.post("/classify?model=resnet8-cifar", content=photo).json()["images"][0]["predictions"][0]
        client.post("/classify?model=resnet18", content=photo)
        text = client.get("/metrics").text
    counted = re.findall(r'resnet_predicted_classes_total\{class="([^"]+)",model="([^"]+)"\} 1\.0', text)
    assert counted == [(best["label"], "resnet8-cifar")]
    assert 'resnet_confidence_count{model="resnet18"} 1.0' in text


def test_failures_count_from_zero(tiny_dir: Path) -> None:
    """Before the first one: Prometheus' `rate` does not see a series appear."""
    with TestClient(create_app(Settings(models_dir=tiny_dir, provider="cpu", max_batch=1))) as client:
        until_ready(client)
        text = client.get("/metrics").text
    for model in ("resnet18", "resnet8-cifar"):
        assert f'resnet_requests_total{{model="{model}",problem="overloaded",status="503"}} 0.0' in text
        assert f'resnet_partial_answers_total{{model="{model}"}} 0.0' in text
