"""The files of deploy/prometheus and deploy/grafana: valid, tested, and about metrics that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from benchmarks.dashboard import DASHBOARD, read_dashboard
from benchmarks.prometheus import DEPLOY, shortened
from model_export.__main__ import make_parser
from service import errors
from service.metrics import Metrics
from service.operating_state import OperatingState
from service.settings import Settings
from service.settings_buckets import SECONDS
from tests.support.manifests import KUBERNETES, composed, container, helm, kustomize, merge
from tests.support.prometheus import require_prometheus

ROOT = Path(__file__).parents[1]
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
RECORDING = yaml.safe_load((DEPLOY / "recording-rules.yml").read_text())
TESTS = sorted((DEPLOY / "tests").glob("*.yml"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def alerts() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every expression of the rules and the dashboard."""
    for file in (ALERTS, RECORDING):
        yield from (rule["expr"] for group in file["groups"] for rule in group["rules"])
    yield from (query.expression for panel in read_dashboard("1m") for query in panel.queries)


def promtool(*arguments: str) -> str:
    """What it prints; fails the test if it finds a fault."""
    require_prometheus()
    finished = subprocess.run(["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_prometheus_reads_the_rules_and_the_example() -> None:
    promtool("check", "rules", "recording-rules.yml", "alerts.yml")
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")


def test_an_operators_prometheus_names_pods_as_one_without_an_operator() -> None:
    """What the operator does by itself: https://prometheus-operator.dev/docs/api-reference/api/#podmetricsendpoint"""
    (job,) = yaml.safe_load((DEPLOY / "kubernetes.yml").read_text())["scrape_configs"]
    (endpoint,) = composed("cpu", "pod-monitor")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabelings = [{names.get(key, key): value for key, value in each.items()} for each in endpoint["relabelings"]]
    by_itself = [each for each in job["relabel_configs"] if each not in relabelings]
    assert [each.get("target_label", each["source_labels"]) for each in by_itself] == [
        ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
        ["__meta_kubernetes_pod_container_port_name"],
        "namespace",
        "pod",
    ]
    assert [each for each in job["relabel_configs"] if each in relabelings] == relabelings


def test_an_operators_prometheus_has_the_same_rules() -> None:
    for objects in (composed("cpu", "prometheus-rule"), helm({"prometheusRule": True})):
        assert objects["PrometheusRule"]["spec"] == {"groups": [*RECORDING["groups"], *ALERTS["groups"]]}
        assert "PodMonitor" not in objects


def test_an_operators_prometheus_finds_monitor_and_rules_by_their_labels(tmp_path: Path) -> None:
    """As docs/operations.md says."""
    (overlay,) = re.findall(r"^```yaml\n(components:.*?)^```$", OPERATIONS, re.M | re.S)
    (values,) = re.findall(r"^\$ helm upgrade .* --reuse-values (.*)$", OPERATIONS, re.M)
    base = {"resources": [os.path.relpath(KUBERNETES / "overlays/cpu", tmp_path.resolve())]}
    overlay = overlay.replace("../resnet-service", os.path.relpath(ROOT, tmp_path.resolve()))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(base) + overlay)
    by_helm = helm(merge(*map(helm_python.parse_set_string, values.replace("--set ", "").split())))
    for objects in (kustomize(tmp_path.resolve()), by_helm):
        for kind in ("PodMonitor", "PrometheusRule"):
            labels = objects[kind]["metadata"]["labels"]
            assert labels.pop("release") == "kube-prometheus-stack"
            assert labels == objects["Deployment"]["metadata"]["labels"]
            assert "release" not in objects["Service"]["metadata"]["labels"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow if file.stem == "slow" else ()) for file in TESTS],
    ids=lambda file: file.stem,
)
def test_alerts_fire_when_they_must_and_are_silent_when_they_must(file: Path) -> None:
    promtool("test", "rules", str(file.relative_to(DEPLOY)))


def test_every_alert_is_tested_both_ways() -> None:
    fires, silent = set(), set()
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for check in test["promql_expr_test"]:
                assert "ALERTS" in check["expr"]
                found = re.findall(r'alertname="(\w+)"', " ".join(each["labels"] for each in check["exp_samples"]))
                fires |= set(found)
                if not found:  # all that the test has series for, or the one that it names
                    silent |= set(re.findall(r'alertname="(\w+)"', check["expr"])) or {"all"}
    names = {alert["alert"] for alert in alerts()}
    assert fires == names
    assert "all" in silent


def test_every_alert_says_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}, alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_the_page_for_operators_has_a_section_and_a_row_for_every_alert() -> None:
    named = [alert["alert"] for alert in alerts()]
    assert re.findall(r"^### (Resnet\w+)$", OPERATIONS, re.M) == named
    rows = re.findall(r"^\| \[(Resnet\w+)\]\(#(\w+)\) \| (\w+) \|", OPERATIONS, re.M)
    assert rows == [(alert["alert"], alert["alert"].lower(), alert["labels"]["severity"]) for alert in alerts()]


def test_the_page_for_operators_knows_how_long_a_pod_may_start() -> None:
    probes = (container(composed(overlay))["startupProbe"] for overlay in ("cpu", "gpu"))
    minutes = [str(probe["periodSeconds"] * probe["failureThreshold"] // 60) for probe in probes]
    assert list(re.findall(r"(\d+) minutes after its start \(on a GPU, (\d+)\)", OPERATIONS)[0]) == minutes


def test_the_first_commands_of_operators_name_what_there_is() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(re.findall(r"\b(resnet-\w+-1)\b", OPERATIONS)) == {f"{compose['name']}-service-1"}
    assert "alpine" in compose["services"]["nginx"]["image"]  # whose busybox has wget
    assert set(re.findall(r"docker compose exec -T (\w+) ", OPERATIONS)) == {"nginx"}
    assert set(re.findall(r"http://resnet-service-1:(\d+)", OPERATIONS)) == {str(Settings().port)}
    by_hpa, by_keda = composed("cpu"), composed("cpu", "keda", without=["hpa"])
    of_a_namespace = "get|logs|describe|delete|port-forward|rollout|rollback|patch [a-z]+ resnet"
    namespaces = re.findall(rf"(?:kubectl|helm)( -n \w+)? (?:{of_a_namespace})", OPERATIONS)
    assert set(namespaces) == {f" -n {by_hpa['Deployment']['metadata']['namespace']}"}
    (ports,) = re.findall(r"kubectl -n resnet port-forward pod/POD ([\d ]+)", OPERATIONS)
    numbers = {port["name"]: str(port["containerPort"]) for port in container(by_hpa)["ports"]}
    assert ports.split() == [numbers["admin"], numbers["http"]]
    assert by_hpa["Deployment"]["metadata"]["name"] in re.findall(
        r"kubectl -n resnet rollout undo deployment (\w+)", OPERATIONS
    )
    patches = re.findall(r"kubectl -n resnet patch (\w+) (\w+) .*?-p '(.*?)'", OPERATIONS)
    scalers = {"hpa": by_hpa["HorizontalPodAutoscaler"], "scaledobject": by_keda["ScaledObject"]}
    assert [kind for kind, _, _ in patches] == list(scalers)
    for kind, name, patch in patches:
        (field,) = json.loads(patch)["spec"]
        assert scalers[kind]["metadata"]["name"] == name
        assert json.loads(patch)["spec"][field] > scalers[kind]["spec"][field]


def test_the_commands_that_look_after_versions_are_those_of_model_export() -> None:
    commands = re.findall(r"`(?:sudo )?(?:/opt/resnet/bin/resnet|docker compose run --rm export) ([^`]+)`", OPERATIONS)
    assert [command.split()[0] for command in commands] == ["rollback", "rollback", "verify", "verify"]
    for command in commands:
        make_parser(command.split()[0]).parse_args(command.split())


def test_every_metric_that_is_asked_for_exists() -> None:
    metrics = Metrics()
    metrics.look_up(OperatingState(ready=lambda: True, target_wait=1.0))
    exposed = {family.name for family in metrics.registry.collect()}
    recorded = {rule["record"] for group in RECORDING["groups"] for rule in group["rules"]}
    asked = set()
    for expression in expressions():
        without = re.sub(r'"[^"]*"', "", expression)
        levels = set(re.findall(r"\b\w+:\w+:\w+", without))
        assert levels <= recorded, expression
        asked |= set(re.findall(r"(?<![:\w])(?:resnet|process)_\w+", without))
    assert len(asked) > 20
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} <= exposed | {"process_cpu_seconds"}


def test_images_that_clients_sent_wrongly_are_told_from_those_that_the_service_failed_on() -> None:
    never_of_an_image = {errors.ModelFailed, errors.ModelNotReady, errors.TooManyConnections}
    own = {fault.slug for fault in set(errors.fault_types(errors.ServerFault)) - never_of_an_image}
    page = (ROOT / "docs" / "metrics.md").read_text().replace("\\|", "|")
    ours, others = re.findall(r'resnet_images_total\{outcome[!=]~"([^"]+)"', page)
    assert set(ours.split("|")) == own
    assert set(others.split("|")) == own | {"ok", "withdrawn"}


def test_the_latency_objective_is_an_edge_of_the_histogram() -> None:
    assert set(re.findall(r'le="([\d.]+)"', " ".join(expressions()))) == {"1.0"}
    assert 1.0 in SECONDS


def test_windows_are_shortened_and_nothing_else() -> None:
    for name in ("recording-rules.yml", "alerts.yml"):
        rules = (DEPLOY / name).read_text()
        short = shortened(rules)
        assert re.sub(r"\[\w+\]", "[]", re.sub(r"(for|interval): \w+$", "", rules, flags=re.M)) == re.sub(
            r"\[\w+\]", "[]", re.sub(r"(for|interval): \w+$", "", short, flags=re.M)
        )
        assert not re.search(r"\[\d+[smhd]\]", short)
    assert shortened("rate(x[6h])\nfor: 10m") == "rate(x[360000ms])\nfor: 10000ms"
    assert shortened("rate(x[5m])") == "rate(x[8000ms])"


def test_the_dashboard_is_what_grafana_reads() -> None:
    """Grafana's own types keep every part of it."""
    register_default_plugins()
    document = json.loads(DASHBOARD.read_text())
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(document)))
    assert lost(document, read) == []
    places = [panel["gridPos"] for panel in document["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    sources = re.findall(r'"uid": "([^"]+)"', json.dumps(document["panels"]))
    assert set(sources) == {"${datasource}"}


def lost(given: object, read: object, path: str = "") -> list[str]:
    """Where something that was given was not read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [place for key in given for place in lost(given[key], read.get(key, "nothing"), f"{path}/{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [place for i in range(len(given)) for place in lost(given[i], read[i], f"{path}/{i}")]
    return [] if given == read else [path]
