"""What deploy/kubernetes says: the same by Kustomize and by Helm, valid, closed, and as the code, the image and the
balancer have it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from opentelemetry.sdk.trace import TracerProvider

from model_export.__main__ import make_parser
from service.api import health
from service.hard_end import GRACE_S
from service.metrics import STAGES, Metrics
from service.settings import PREFIX, Settings
from service.tracing.setup import open_spans
from tests.support import image
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    RELEASE,
    ROOT,
    Manifest,
    Objects,
    composed,
    container,
    environment,
    gpu_values,
    helm,
    kustomize,
    merge,
    pod,
)
from tests.support.otlp import forget_variables

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
CUDA = yaml.safe_load((ROOT / "docker/compose.cuda.yml").read_text())["services"]
NGINX = (ROOT / "docker/nginx.conf").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SCRAPE = KUBERNETES.parent / "prometheus/kubernetes.yml"
ADAPTER = yaml.safe_load((KUBERNETES / "prometheus/adapter.yaml").read_text())
PAGE = (ROOT / "docs/kubernetes.md").read_text()
VERSIONS = ("1.30", kubernetes_validate.latest_version())  # the oldest that the chart takes, and the newest known
CUSTOM = ("keda.sh/", "monitoring.coreos.com/", "serving.kserve.io/")
OF_ONE = "(-[a-z0-9]+){1,2}"  # what follows the name of a Deployment in the names of its pods
FETCHING = {"models": {"source": "s3://models/resnet"}}

TRACING = {"tracing": {"endpoint": "http://opentelemetry-collector.monitoring.svc:4318"}}

VARIANTS = ["cpu", "gpu", "keda", "fixed", "fetch", "balancer", "tracing", "fetch and tracing"]


def pair(variant: str) -> tuple[Objects, Objects]:
    """An installation as Kustomize and as Helm render it."""
    match variant:
        case "cpu":
            return kustomize(KUBERNETES / "overlays/cpu"), helm()
        case "gpu":
            return kustomize(KUBERNETES / "overlays/gpu"), helm(gpu_values())
        case "keda":
            by_keda = composed("cpu", "keda", "pod-monitor", "prometheus-rule", "keys", without=["hpa"])
            watched = {"podMonitor": True, "prometheusRule": True, "keysSecret": "resnet-keys"}
            return by_keda, helm({"autoscaling": {"by": "keda"}}, watched)
        case "fixed":
            return composed("gpu", without=["hpa"]), helm(gpu_values(), {"autoscaling": {"by": "none"}})
        case "fetch":
            return composed("gpu", "fetch"), helm(gpu_values(), FETCHING)
        case "tracing":
            return composed("cpu", "tracing"), helm(TRACING)
        case "fetch and tracing":
            return composed("cpu", "fetch", "tracing"), helm(FETCHING, TRACING)
        case "balancer":
            return composed("cpu", "balancer"), helm(helm_python.parse_set_string("balancer.enabled=true"))
    raise ValueError(variant)


@pytest.fixture(scope="module", params=VARIANTS)
def both(request: pytest.FixtureRequest) -> tuple[Objects, Objects]:
    return pair(request.param)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest) -> Objects:
    return pair(request.param)[0]


@pytest.fixture(scope="module")
def cpu() -> Objects:
    return pair("cpu")[0]


@pytest.fixture(scope="module")
def gpu() -> Objects:
    return pair("gpu")[0]


@pytest.fixture(scope="module")
def kserve() -> Objects:
    return kustomize(KUBERNETES / "kserve")


@pytest.fixture(scope="module")
def models() -> Objects:
    return kustomize(KUBERNETES / "models")


@pytest.fixture(scope="module")
def rollback() -> Objects:
    return kustomize(KUBERNETES / "rollback")


def normalised(value: Any) -> Any:
    """Lists of named things in the order of their names, in which their order means nothing."""
    if isinstance(value, dict):
        return {key: normalised(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    values = [normalised(one) for one in value]
    named = all(isinstance(one, dict) and "name" in one for one in values)
    return sorted(values, key=lambda one: one["name"]) if named else values


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


def seconds_of(probe: Manifest) -> int:
    """How long a probe may fail."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def nginx(name: str) -> str:
    """The value of a directive that docker/nginx.conf has once."""
    (value,) = re.findall(rf"^ *{name} ([^;]+);", NGINX, re.M)
    return str(value)


# ---- the two renderings ----


def test_helm_renders_what_kustomize_does(both: tuple[Objects, Objects]) -> None:
    by_kustomize, by_helm = both
    assert normalised(by_helm) == normalised(by_kustomize)


def test_two_autoscalers_cannot_be_asked_for() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        composed("cpu", "keda")
    assert "/spec/replicas" in failed.value.stderr
    with pytest.raises(helm_python.HelmValuesError, match="autoscaling"):
        helm({"autoscaling": {"by": "both"}})


@pytest.mark.parametrize(
    ("variant", "scalers", "replicas"),
    [("cpu", {"HorizontalPodAutoscaler"}, None), ("keda", {"ScaledObject"}, None), ("fixed", set(), 2)],
)
def test_one_thing_decides_the_number_of_pods(variant: str, scalers: set[str], replicas: int | None) -> None:
    for objects in pair(variant):
        assert objects.keys() & {"HorizontalPodAutoscaler", "ScaledObject"} == scalers
        assert objects["Deployment"]["spec"].get("replicas") == replicas


def test_the_chart_passes_helms_lint() -> None:
    for values in ({}, gpu_values(), FETCHING):
        report = helm_python.lint(CHART, values, strict=True)
        assert report["errors"] == []
        assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"RESNET_ADMIN_PORT": 9001}},  # would stand in one place of three
        {"settings": {"RESNET_SHUTDOWN_TIMEOUT": 60}},  # there is a value for it, which the grace period follows
        {"settings": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}},  # the network policy follows the other
        {"settings": {"port": 9001}},
        {"models": {"source": "models/resnet"}},
        {"shutdown": {"delay": -1}},
        {"tracing": {"endpoint": "collector:4318"}},
        {"tracing": {"endpoint": "http://collector"}},  # the network policy needs the port
        {"balancer": {"listen": "listen 80;"}},  # the pods' port is 8080
        {"unknown": 1},
    ],
)
def test_the_chart_refuses_values_that_it_would_not_follow(values: Manifest) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        helm(values)


@pytest.mark.parametrize(
    ("value", "written"),
    [(134217728.0, "134217728"), (4, "4"), (0.5, "0.5"), (0, "0"), (True, "true"), ("json", "json")],
)
def test_settings_are_written_as_in_the_values_file(value: object, written: str) -> None:
    """Helm reads its numbers as floats."""
    assert environment(container(helm({"settings": {"RESNET_SOMETHING": value}})))["RESNET_SOMETHING"] == written


def test_a_chart_without_models_is_refused() -> None:
    with pytest.raises(helm_python.HelmRenderError, match=r"models\.claim or models\.source"):
        helm({"models": {"claim": ""}})


def test_a_release_of_another_name_and_namespace_keeps_to_itself() -> None:
    with helm_python.Chart.load(CHART) as chart:
        watched = {"podMonitor": True, "prometheusRule": True}
        values = {"autoscaling": {"by": "keda"}, "balancer": {"enabled": True}, **watched}
        rendered = chart.render(values, name="cats", namespace="zoo")
    for text in rendered.values():
        for document in filter(None, yaml.safe_load_all(text)):
            assert document["metadata"]["name"] in ("cats", "cats-balancer", "cats-pods")
            assert document["metadata"]["namespace"] == "zoo"
            if document["kind"] == "ConfigMap":
                assert "server cats-pods.zoo.svc.cluster.local:8000 " in document["data"]["upstream.conf"]
                continue
            assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "cats"
            if document["kind"] == "ScaledObject":
                query = document["spec"]["triggers"][0]["metadata"]["query"]
                assert query.count(f'namespace="zoo",pod=~"cats{OF_ONE}"') == 2


def pod_of(deployment: str, template: str) -> str:
    """A pod's name, as Kubernetes makes it of the ReplicaSet's: SimpleNameGenerator of k8s.io/apiserver."""
    return f"{deployment}-{template}-"[: 63 - 5] + "x2b9z"


@pytest.mark.parametrize("length", [1, 46, 47, 48, 53])
def test_a_release_may_have_any_length_that_helm_takes(length: int) -> None:
    name = ("cats" * 14)[:length]
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(
            {"autoscaling": {"by": "keda"}, "balancer": {"enabled": True}}, name=name, namespace="zoo"
        )
    documents = [one for text in rendered.values() for one in yaml.safe_load_all(text) if one]
    for document in documents:
        if document["kind"] in ("Service", "ScaledObject"):  # KEDA's HorizontalPodAutoscaler is keda-hpa-NAME
            assert len("keda-hpa-" * (document["kind"] == "ScaledObject") + document["metadata"]["name"]) <= 63
        for label in document["metadata"].get("labels", {}).values():
            assert len(label) <= 63
    (scaled,) = [document for document in documents if document["kind"] == "ScaledObject"]
    (pods,) = set(re.findall(r'pod=~"([^"]+)"', scaled["spec"]["triggers"][0]["metadata"]["query"]))
    for template in ("7c5d8f6b", "7c5d8f6b9", "7c5d8f6b94"):
        assert re.fullmatch(pods, pod_of(name, template))
        for other in (f"x{name}", f"{name}x"):
            assert not re.fullmatch(pods, pod_of(other, template))


@pytest.mark.parametrize("name", ["1cats", "cats.1"])
def test_a_release_whose_name_no_service_may_have_is_refused(name: str) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmRenderError, match="choose such a name"):
        chart.render({}, name=name, namespace="zoo")


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"


# ---- validity ----


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_fit_the_schemas_of_kubernetes(version: str, both: tuple[Objects, Objects], models: Objects) -> None:
    for objects in (*both, models):
        for document in objects.values():
            if not document["apiVersion"].startswith(CUSTOM):
                kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_object_would_not_fit(cpu: Objects) -> None:
    wrong = json.loads(json.dumps(cpu["Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_selectors_find_the_pods(both: tuple[Objects, Objects]) -> None:
    for objects in both:
        labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
        selectors = [
            objects["Deployment"]["spec"]["selector"]["matchLabels"],
            objects["Service"]["spec"]["selector"],
            objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            *(one["labelSelector"]["matchLabels"] for one in pod(objects)["topologySpreadConstraints"]),
        ]
        if "PodMonitor" in objects:
            selectors.append(objects["PodMonitor"]["spec"]["selector"]["matchLabels"])
        assert all(selector == labels for selector in selectors)
        # that of Prometheus without an operator
        (job,) = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
        (names,) = [
            one["regex"]
            for one in job["relabel_configs"]
            if one["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
        ]
        assert re.fullmatch(names, labels["app.kubernetes.io/name"])


def test_disruptions_leave_pods(overlay: Objects) -> None:
    least = overlay["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    assert overlay["PodDisruptionBudget"]["spec"]["maxUnavailable"] < least
    assert overlay["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] < least
    keys = [one["topologyKey"] for one in pod(overlay)["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


# ---- closed ----


def pods(variants: list[Objects], models: Objects, kserve: Objects) -> Iterator[Manifest]:
    for objects in variants:
        yield pod(objects)
        if "Deployment resnet-balancer" in objects:
            yield objects["Deployment resnet-balancer"]["spec"]["template"]["spec"]
    yield models["Job"]["spec"]["template"]["spec"]
    runtime = kserve["ServingRuntime"]["spec"]
    yield {**kserve["InferenceService"]["spec"]["predictor"], **runtime}


def test_pods_are_restricted(both: tuple[Objects, Objects], models: Objects, kserve: Objects) -> None:
    """As the Pod Security Standard `restricted` demands, and more: no token, a root that cannot be written to."""
    for spec in pods(list(both), models, kserve):
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        assert all(volume.keys() & kinds for volume in spec["volumes"])
        for one in [*spec["containers"], *spec.get("initContainers", [])]:
            security = {**spec.get("securityContext", {}), **one["securityContext"]}
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            user = f"{security['runAsUser']}:{security['runAsGroup']}"
            assert f"USER {user}" in DOCKERFILE or user == COMPOSE["nginx"]["user"]
            assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]


def test_what_can_be_written_to_is_small_and_gone_with_the_pod(both: tuple[Objects, Objects]) -> None:
    for objects in both:
        volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
        writable = {mount["name"] for mount in container(objects)["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"cache", "tmp"}
        assert all("sizeLimit" in volumes[name]["emptyDir"] for name in writable)


def test_the_admin_port_is_reached_by_prometheus_only(both: tuple[Objects, Objects]) -> None:
    for objects in both:
        assert [port["targetPort"] for port in objects["Service"]["spec"]["ports"]] == ["http"]
        (rule,) = objects["Ingress"]["spec"]["rules"]
        (path,) = rule["http"]["paths"]
        front = objects.get("Service resnet-balancer", objects["Service"])
        assert path["backend"]["service"] == {"name": front["metadata"]["name"], "port": {"name": "http"}}
        to_http, to_admin = objects["NetworkPolicy"]["spec"]["ingress"]
        assert [port["port"] for port in to_http["ports"]] == ["http"]
        assert [port["port"] for port in to_admin["ports"]] == ["admin"]
        assert to_admin["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]


def test_pods_call_only_whom_they_need() -> None:
    names = [("anybody", 53), ("anybody", 53)]
    fetching = [*names, ("anybody", 443), ("169.254.169.254/32", 80), ("169.254.170.23/32", 80)]
    tracing = [*names, ("anybody", 4318)]
    allowed_in = {"cpu": [], "fetch": fetching, "tracing": tracing, "fetch and tracing": [*fetching, *tracing]}
    for variant, allowed in allowed_in.items():
        for objects in pair(variant):
            policy = objects["NetworkPolicy"]["spec"]
            assert policy["policyTypes"] == ["Ingress", "Egress"]
            called = [
                (peer["ipBlock"]["cidr"] if peer else "anybody", port["port"])
                for rule in policy["egress"]
                for peer in rule.get("to", [None])
                for port in rule["ports"]
            ]
            assert called == allowed


# ---- as the code and the image have it ----


def test_environments_are_settings_that_the_service_accepts(both: tuple[Objects, Objects], kserve: Objects) -> None:
    (served,) = kserve["ServingRuntime"]["spec"]["containers"]
    for one in (*(container(objects) for objects in both), served):
        given = image.environment() | environment(one)
        names = {name: name.removeprefix(PREFIX).lower() for name in given if not name.startswith("OTEL_")}
        assert set(names.values()) <= set(Settings.model_fields)
        Settings(**{setting: given[name] for name, setting in names.items()})


def test_the_container_is_the_images(both: tuple[Objects, Objects], kserve: Objects) -> None:
    """Nothing replaces the image's entry point, and ports and paths are those that it expects."""
    (served,) = kserve["ServingRuntime"]["spec"]["containers"]
    for one in (*(container(objects) for objects in both), served):
        assert not one.keys() & {"command", "args"}
        given = image.environment() | environment(one)
        ports = {port["name"]: str(port["containerPort"]) for port in one["ports"]}
        assert ports["http"] == given["RESNET_PORT"]
        assert ports.get("admin", "9000") == given["RESNET_ADMIN_PORT"] == "9000"
        paths = {mount["mountPath"] for mount in one["volumeMounts"]}
        if one is served:
            paths.add("/mnt/models")  # KServe mounts it
        expected = {given["RESNET_MODELS_DIR"], given["RESNET_CACHE_DIR"], "/tmp"}
        if keys := given.get("RESNET_API_KEYS_FILE"):
            expected.add(str(Path(keys).parent))
        assert paths == expected


def test_images_are_those_of_compose(cpu: Objects, gpu: Objects, models: Objects, kserve: Objects) -> None:
    (served,) = kserve["ServingRuntime"]["spec"]["containers"]
    assert container(cpu)["image"] == served["image"] == COMPOSE["service"]["image"]
    assert container(gpu)["image"] == CUDA["service"]["image"]
    for objects in pair("fetch"):
        (fetch,) = pod(objects)["initContainers"]
        assert fetch["image"] == container(objects)["image"]
    (export,) = models["Job"]["spec"]["template"]["spec"]["containers"]
    assert export["image"] == COMPOSE["export"]["image"]
    assert not export.keys() & {"command", "args"}


def test_the_job_has_what_export_has_in_compose(cpu: Objects, models: Objects) -> None:
    spec = models["Job"]["spec"]["template"]["spec"]
    (export,) = spec["containers"]
    assert in_bytes(export["resources"]["limits"]["memory"]) == int(COMPOSE["export"]["mem_limit"][:-1]) * 2**30
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (size,) = re.findall(r"size=(\d+)g", COMPOSE["export"]["tmpfs"])
    assert in_bytes(volumes["tmp"]["emptyDir"]["sizeLimit"]) == int(size) * 2**30
    claim = models["PersistentVolumeClaim"]["metadata"]["name"]
    (served,) = [volume for volume in pod(cpu)["volumes"] if volume["name"] == "models"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    assert served["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}


def test_a_version_is_taken_back_where_it_was_published(
    models: Objects, rollback: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = rollback.values()  # and no claim, which deleting it would take away
    kubernetes_validate.validate(job, VERSIONS[0], strict=True)
    assert job["metadata"]["name"] != models["Job"]["metadata"]["name"]
    assert job["spec"]["backoffLimit"] == 0
    spec, filling = job["spec"]["template"]["spec"], models["Job"]["spec"]["template"]["spec"]
    arguments = spec["containers"][0].pop("args")
    assert spec == filling
    (models_dir,) = re.findall(r"^ENV RESNET_MODELS_DIR=(\S+)\nCMD \[\"quickstart\"\]$", DOCKERFILE, re.M)
    assert {"name": "models", "mountPath": models_dir} in filling["containers"][0]["volumeMounts"]
    monkeypatch.setenv("RESNET_MODELS_DIR", models_dir)
    parsed = make_parser("rollback").parse_args(arguments)
    assert (str(parsed.models_dir), parsed.name) == (models_dir, "resnet50")


def test_models_are_fetched_to_where_they_are_served_from() -> None:
    for objects in pair("fetch"):
        (fetch,) = pod(objects)["initContainers"]
        assert fetch["command"] == ["python", "-m", "service.fetch"]
        source, option, folder = fetch["args"]
        assert (source, option) == (FETCHING["models"]["source"], "--models-dir")
        assert folder == image.environment()["RESNET_MODELS_DIR"]
        assert {"name": "models", "mountPath": folder} in fetch["volumeMounts"]
        volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
        assert volumes["models"].keys() == {"name", "emptyDir"}
        (variable,) = fetch["env"]
        assert {"name": "registry", "mountPath": variable["value"], "readOnly": True} in fetch["volumeMounts"]
        assert variable["name"] == "DOCKER_CONFIG"
        assert [item["path"] for item in volumes["registry"]["secret"]["items"]] == ["config.json"]


def test_keys_are_mounted_and_prometheus_has_one() -> None:
    for objects in pair("keda"):
        (volume,) = [volume for volume in pod(objects)["volumes"] if volume["name"] == "keys"]
        (item,) = volume["secret"]["items"]  # not the one of Prometheus
        file = Path(environment(container(objects))["RESNET_API_KEYS_FILE"])
        mount = {"name": "keys", "mountPath": str(file.parent), "readOnly": True}
        assert mount in container(objects)["volumeMounts"]
        assert item["path"] == file.name
        (endpoint,) = objects["PodMonitor"]["spec"]["podMetricsEndpoints"]
        asks_with = {"name": volume["secret"]["secretName"], "key": "metrics"}
        assert endpoint["authorization"] == {"credentials": asks_with}


def test_the_service_traces_as_the_pods_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for objects in pair("tracing"):
        given = environment(container(objects))
        with monkeypatch.context() as inside:
            forget_variables(inside)
            assert open_spans() is None
            for name, value in given.items():
                inside.setenv(name, value)
            spans = open_spans()
            sampler = TracerProvider(shutdown_on_exit=False).sampler.get_description()
        assert spans is not None
        spans.close()
        assert sampler.startswith("ParentBased{root:TraceIdRatioBased{0.01},")


def test_the_receiver_of_spans_may_want_a_key() -> None:
    (secret,) = re.findall(r"kubectl create secret generic (\S+) .*=OTEL_EXPORTER_OTLP_HEADERS=", PAGE)
    for objects in pair("tracing"):
        assert container(objects)["envFrom"] == [{"secretRef": {"name": secret, "optional": True}}]
    settings = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=production"}
    assert environment(container(helm({"settings": settings}))).items() >= settings.items()


def test_probes_ask_what_the_admin_port_answers(overlay: Objects) -> None:
    answered = {getattr(route, "path", None) for route in health.router(lambda: True).routes}
    one = container(overlay)
    probes = {kind: one[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert {probe["path"] for probe in probes.values()} == answered
    assert probes["startup"]["path"] == probes["readiness"]["path"] == "/healthz/ready"


def test_startup_waits_for_loading_and_tuning(cpu: Objects, gpu: Objects) -> None:
    """At least as long as the health checks of the containers, and the rollout longer than that."""
    (of_cpu,) = re.findall(r"--start-period=(\d+)s", DOCKERFILE)
    of_gpu = CUDA["service"]["healthcheck"]["start_period"].removesuffix("s")
    for objects, least in ((cpu, of_cpu), (gpu, of_gpu)):
        longest = seconds_of(container(objects)["startupProbe"])
        assert longest >= int(least)
        assert objects["Deployment"]["spec"]["progressDeadlineSeconds"] > longest


def test_the_watchdog_acts_before_the_liveness_probe(overlay: Objects) -> None:
    assert seconds_of(container(overlay)["livenessProbe"]) > Settings().hang_timeout + 2 * GRACE_S
    for kind in ("startup", "readiness", "liveness"):
        probe = container(overlay)[f"{kind}Probe"]
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_stopping_takes_as_long_as_the_service_may(both: tuple[Objects, Objects], kserve: Objects) -> None:
    slow = helm({"shutdown": {"preStop": 20, "delay": 3, "timeout": 120}})
    predictor = kserve["InferenceService"]["spec"]["predictor"]
    ends = [(pod(objects)["terminationGracePeriodSeconds"], container(objects)) for objects in (*both, slow)]
    ends.append((predictor["terminationGracePeriodSeconds"], kserve["ServingRuntime"]["spec"]["containers"][0]))
    for grace, one in ends:
        given = environment(one)
        hook = one["lifecycle"]["preStop"]["sleep"]["seconds"]
        limits = float(given["RESNET_SHUTDOWN_DELAY"]) + float(given["RESNET_SHUTDOWN_TIMEOUT"])
        assert hook + limits + 2 * GRACE_S < grace < hook + limits + 3 * GRACE_S


def test_shutdown_is_that_of_compose(overlay: Objects) -> None:
    given, of_compose = environment(container(overlay)), COMPOSE["service"]["environment"]
    assert {name: given[name] for name in of_compose} == of_compose


def test_gpus_have_the_settings_of_compose(cpu: Objects, gpu: Objects) -> None:
    added = environment(container(gpu)).items() - environment(container(cpu)).items()
    of_compose = CUDA["service"]["environment"]
    assert dict(added) == {name: of_compose[name] for name in ("RESNET_PROVIDER", "RESNET_WORKERS")}
    assert container(gpu)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod(gpu)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_memory_is_enough_for_what_was_measured(cpu: Objects, gpu: Objects) -> None:
    """The budget of requests, the largest resident memory of a service with one ResNet-50, and /tmp."""
    results = ROOT / "benchmarks/results"
    peers = json.loads((results / "peers.json").read_text())["settings"]
    ours = [row for row in peers if row["peer"] == "resnet-service" and not row["error"]]
    on_cpu = max(measured["memory.rss"] for row in ours for measured in row["rounds"]) * 1e6
    on_gpu = max(row["host MB"] for row in json.loads((results / "gpu-http.json").read_text())["HTTP"]) * 1e6
    for objects, measured in ((cpu, on_cpu), (gpu, on_gpu)):
        one = container(objects)
        assert one["resources"]["requests"]["cpu"] == one["resources"]["limits"]["cpu"]
        workers = int(environment(one).get("RESNET_WORKERS", "1"))
        settings = Settings(decode_threads=int(one["resources"]["limits"]["cpu"]), workers=workers)
        memory = settings.memory
        budget = workers * (memory.requests * 4)
        tmp = sum(in_bytes(v["emptyDir"]["sizeLimit"]) for v in pod(objects)["volumes"] if v["name"] == "tmp")
        assert budget + measured + tmp < in_bytes(one["resources"]["limits"]["memory"])


def test_kserve_runs_the_same_container(cpu: Objects, kserve: Objects) -> None:
    (served,) = kserve["ServingRuntime"]["spec"]["containers"]
    ours = container(cpu)
    numbers = {port["name"]: port["containerPort"] for port in ours["ports"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = ours[kind]["httpGet"]
        assert served[kind] == {**ours[kind], "httpGet": {**asked, "port": numbers[asked["port"]]}}
    for name in ("lifecycle", "resources", "image", "imagePullPolicy"):
        assert served[name] == ours[name]
    assert environment(served) == environment(ours) | {"RESNET_MODELS_DIR": "/mnt/models"}
    predictor = kserve["InferenceService"]["spec"]["predictor"]
    assert predictor["shareProcessNamespace"] == pod(cpu)["shareProcessNamespace"]
    # KServe puts every port that is listed into the Service
    assert [port["containerPort"] for port in served["ports"]] == [numbers["http"]]


def test_kserve_adds_nothing_that_restricted_refuses(kserve: Objects, models: Objects) -> None:
    """It mounts a claim. For any other source it adds an init container, whose security context the page sets."""
    source = kserve["InferenceService"]["spec"]["predictor"]["model"]["storageUri"]
    assert source == f"pvc://{models['PersistentVolumeClaim']['metadata']['name']}"
    (patch,) = re.findall(r"^\$ kubectl patch clusterstoragecontainer default --type merge --patch '(.*)'$", PAGE, re.M)
    assert json.loads(patch)["spec"]["container"]["securityContext"] == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_kserve_takes_the_runtime_for_the_model(kserve: Objects) -> None:
    runtime, model = kserve["ServingRuntime"], kserve["InferenceService"]["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
    assert [model["protocolVersion"]] == runtime["spec"]["protocolVersions"]


# ---- as the balancer has it ----


def test_the_ingress_replays_as_the_balancer_does(both: tuple[Objects, Objects]) -> None:
    prefix = "nginx.ingress.kubernetes.io/"
    directives = {
        "client-body-buffer-size": nginx("client_body_buffer_size"),
        "proxy-body-size": nginx("client_max_body_size"),
        "proxy-connect-timeout": nginx("proxy_connect_timeout").removesuffix("s"),
        "proxy-max-temp-file-size": nginx("proxy_max_temp_file_size"),
        "proxy-next-upstream": nginx("proxy_next_upstream"),
        "proxy-next-upstream-timeout": nginx("proxy_next_upstream_timeout").removesuffix("s"),
        "proxy-next-upstream-tries": nginx("proxy_next_upstream_tries"),
        "proxy-read-timeout": nginx("proxy_read_timeout").removesuffix("s"),
        "proxy-request-buffering": nginx("proxy_request_buffering"),
        "proxy-send-timeout": nginx("proxy_send_timeout").removesuffix("s"),
        # nginx's default, which ingress-nginx turns off; and what it has in place of least_conn
        "proxy-buffering": "on",
        "load-balance": "ewma",
    }
    assert "least_conn;" in NGINX
    assert "proxy_buffering" not in NGINX
    for objects in both:
        ingress = objects["Ingress"]
        if "Deployment resnet-balancer" in objects:  # it only forwards
            assert "annotations" not in ingress["metadata"]
            assert "ingressClassName" not in ingress["spec"]
        else:
            assert ingress["metadata"]["annotations"] == {prefix + name: value for name, value in directives.items()}
            assert ingress["spec"]["ingressClassName"] == "nginx"


@pytest.mark.parametrize("balancer", [False, True])
def test_the_chart_takes_a_class_for_the_ingress(balancer: bool) -> None:
    objects = helm({"balancer": {"enabled": balancer}, "ingress": {"class": "ours"}})
    assert objects["Ingress"]["spec"]["ingressClassName"] == "ours"


def test_the_ingress_controller_is_set_as_the_balancer() -> None:
    config = yaml.safe_load((KUBERNETES / "ingress-nginx.yaml").read_text())["controller"]["config"]
    assert config == {
        "client-body-timeout": nginx("client_body_timeout").removesuffix("s"),
        "client-header-timeout": nginx("client_header_timeout").removesuffix("s"),
        "server-tokens": {"off": "false"}[nginx("server_tokens")],
        "upstream-keepalive-timeout": nginx("keepalive_timeout").removesuffix("s"),
    }


def test_the_balancer_is_the_one_of_compose() -> None:
    for objects in pair("balancer"):
        files = objects["ConfigMap resnet-balancer"]["data"]
        assert files.keys() == {"nginx.conf", *re.findall(r"include (\S+);", NGINX)}
        assert files["nginx.conf"].strip() == NGINX.strip()
        spec = objects["Deployment resnet-balancer"]["spec"]["template"]["spec"]
        (one,) = spec["containers"]
        compose = COMPOSE["nginx"]
        assert one["image"] == compose["image"]
        mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        configured = compose["command"][compose["command"].index("-c") + 1]
        there = f"{mounts['configuration']}/nginx.conf"
        assert one["command"] == [there if part == configured else part for part in compose["command"]]
        (port,) = one["ports"]
        (listening,) = re.findall(r"^listen (\d+);", files["listen.conf"], re.M)
        assert (ROOT / "docker/listen.conf").read_text().count(f"listen {listening};") == 1
        assert port["containerPort"] == int(listening)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (size,) = re.findall(r"size=(\d+)g", compose["tmpfs"])
        assert in_bytes(volumes["tmp"]["emptyDir"]["sizeLimit"]) == int(size) * 2**30
        assert in_bytes(one["resources"]["limits"]["memory"]) == int(compose["mem_limit"][:-1]) * 2**30
        hook = one["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = int(compose["stop_grace_period"].removesuffix("s"))
        assert spec["terminationGracePeriodSeconds"] == hook + grace


def test_the_balancer_finds_the_pods() -> None:
    (as_in_compose,) = re.findall(r"^server \S+ (.*)$", (ROOT / "docker/upstream.conf").read_text(), re.M)
    for objects in pair("balancer"):
        headless = objects["Service resnet-pods"]
        (port,) = headless["spec"]["ports"]
        assert headless["spec"]["clusterIP"] == "None"
        assert headless["spec"]["selector"] == objects["Service"]["spec"]["selector"]
        # DNS gives addresses, so the port is that of the container
        assert port["port"] in [one["containerPort"] for one in container(objects)["ports"] if one["name"] == "http"]
        name = f"{headless['metadata']['name']}.{headless['metadata']['namespace']}.svc.cluster.local:{port['port']}"
        assert f"server {name} {as_in_compose}" in objects["ConfigMap resnet-balancer"]["data"]["upstream.conf"]
        policy = objects["NetworkPolicy resnet-balancer"]["spec"]
        assert policy["egress"][0]["to"] == [{"podSelector": {"matchLabels": headless["spec"]["selector"]}}]
        labels = objects["Deployment resnet-balancer"]["spec"]["template"]["metadata"]["labels"]
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selector = objects[f"{kind} resnet-balancer"]["spec"].get("selector") or policy["podSelector"]
            assert selector.get("matchLabels", selector) == labels


# ---- what it scales on ----


def of_adapter(group: str, matchers: str) -> str:
    """The adapter's query, as it asks Prometheus."""
    (rule,) = ADAPTER["rules"]["custom"]
    query: str = rule["metricsQuery"]
    return query.replace("<<.GroupBy>>", group).replace("<<.LabelMatchers>>", matchers)


def test_it_scales_on_a_metric_that_the_service_has(cpu: Objects) -> None:
    assert ADAPTER["rules"].keys() == {"custom"}  # the rules of others stay
    (rule,) = ADAPTER["rules"]["custom"]
    (metric,) = cpu["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    metrics = Metrics()
    metrics.stages.labels("resnet50", "queue").observe(0.1)
    exposed = metrics.text().decode()
    assert "queue" in STAGES
    for name in set(re.findall(r"resnet_\w+", rule["metricsQuery"] + rule["seriesQuery"])):
        assert re.search(rf'^{name}{{[^}}]*stage="queue"', exposed, re.M), name


def test_every_autoscaler_asks_the_same(kserve: Objects) -> None:
    """The mean over the pods. KServe's is the sum of them, since KEDA divides it by the number of pods."""
    asked = []
    for objects in pair("keda"):
        (trigger,) = objects["ScaledObject"]["spec"]["triggers"]
        assert trigger["metricType"] == "Value"
        asked.append((trigger["metadata"]["query"], "avg", f"resnet{OF_ONE}"))
    predictor = kserve["InferenceService"]["spec"]["predictor"]
    (external,) = predictor["autoScaling"]["metrics"]
    target = external["external"]["target"]
    assert target["type"] == "AverageValue"  # KServe drops it, and KEDA falls back to the same
    assert target["value"] == target["averageValue"]
    name = kserve["InferenceService"]["metadata"]["name"]
    asked.append((external["external"]["metric"]["query"], "sum", f"{name}-predictor{OF_ONE}"))
    for query, over_pods, names in asked:
        of_pods = of_adapter("pod", f'namespace="{NAMESPACE}",pod=~"{names}"')
        assert query == f"{over_pods}({of_pods})"
    for objects in (*pair("keda"), kserve):
        assert {one["metadata"]["namespace"] for one in objects.values()} == {NAMESPACE}


def test_they_scale_long_before_the_service_refuses(cpu: Objects, kserve: Objects) -> None:
    refuses = Settings().target_wait_ms
    (metric,) = cpu["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (trigger,) = pair("keda")[0]["ScaledObject"]["spec"]["triggers"]
    (external,) = kserve["InferenceService"]["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": f"{refuses / 10:g}m"}
    assert trigger["metadata"]["threshold"] == external["external"]["target"]["value"] == f"{refuses / 10_000:g}"


def test_both_autoscalers_behave_alike(kserve: Objects) -> None:
    (by_keda, _), (by_hpa, _) = pair("keda"), pair("cpu")
    keda, hpa = by_keda["ScaledObject"]["spec"], by_hpa["HorizontalPodAutoscaler"]["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
    for target in (keda["scaleTargetRef"], hpa["scaleTargetRef"]):
        assert target["name"] == by_hpa["Deployment"]["metadata"]["name"]
    predictor = kserve["InferenceService"]["spec"]["predictor"]
    window = "stabilizationWindowSeconds"  # all that KServe passes on
    assert predictor["autoScaling"]["behavior"] == {"scaleDown": {window: hpa["behavior"]["scaleDown"][window]}}
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (hpa["minReplicas"], hpa["maxReplicas"])


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ, "CI must have promtool: tests/install-tools installs it"
        pytest.skip("promtool is not installed: run `make tools`")
    return found


def test_prometheus_computes_the_wait(promtool: str, tmp_path: Path) -> None:
    """Three pods: one whose images wait 0.5 s, one whose images wait 0.1 s, one without images. Pods of others, whose
    names begin with the same, do not count."""
    matchers = f'namespace="{NAMESPACE}",pod=~"resnet{OF_ONE}"'
    (trigger,) = pair("keda")[0]["ScaledObject"]["spec"]["triggers"]
    series = []
    ours = [("resnet-7d4b9f-a", 30, 60), ("resnet-7d4b9f-b", 3, 30), ("resnet-7d4b9f-c", 0, 0)]
    others = [("other", 90, 9), ("resnet-gpu-5f6c8-a", 90, 9), ("resnet-predictor-9c7d5-a", 90, 9)]
    for name, waited, images in [*ours, *others]:
        labels = f'{{namespace="{NAMESPACE}",pod="{name}",model="resnet50",stage="queue"}}'
        series.append({"series": f"resnet_stage_seconds_sum{labels}", "values": f"0+{waited}x40"})
        series.append({"series": f"resnet_stage_seconds_count{labels}", "values": f"0+{images}x40"})
        elsewhere = labels.replace('"queue"', '"total"')
        series.append({"series": f"resnet_stage_seconds_sum{elsewhere}", "values": f"0+{1000 + waited}x40"})
    each = [
        {"labels": f'{{pod="{name}"}}', "value": value}
        for name, value in zip([pod_name for pod_name, _, _ in ours], (0.5, 0.1, 0), strict=True)
    ]
    tests = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": of_adapter("pod", matchers), "eval_time": "5m", "exp_samples": each},
                    {"expr": trigger["metadata"]["query"], "eval_time": "5m", "exp_samples": [{"value": 0.2}]},
                ],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def discovered(promtool: str, job: Manifest, targets: list[Manifest], folder: Path) -> list[Manifest]:
    """The labels of the targets that a scrape job keeps, of targets as the Kubernetes API would tell them: Debian's
    Prometheus is built without that discovery."""
    static = [{"targets": [labels.pop("__address__")], "labels": labels} for labels in targets]
    written = folder / "prometheus.yaml"
    written.write_text(yaml.safe_dump({"scrape_configs": [{**job, "static_configs": static}]}))
    command = [promtool, "check", "service-discovery", "--timeout=2s", written, job["job_name"]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [target["labels"] for target in json.loads(done.stdout) if target["labels"]]


def test_prometheus_finds_the_admin_port_of_each_pod(promtool: str, tmp_path: Path) -> None:
    (job,) = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    meta = "__meta_kubernetes_"
    targets = [
        {
            "__address__": f"10.0.0.1:{number}",
            f"{meta}namespace": NAMESPACE,
            f"{meta}pod_name": "resnet-a",
            f"{meta}pod_label_app_kubernetes_io_name": name,
            f"{meta}pod_label_app_kubernetes_io_instance": "cats",
            f"{meta}pod_container_port_name": port,
            f"{meta}pod_phase": phase,
        }
        for name, port, number, phase in (
            ("resnet", "admin", 9000, "Running"),
            ("resnet", "admin", 9000, "Pending"),
            ("resnet", "http", 8000, "Running"),
            ("other", "admin", 9000, "Running"),
        )
    ]
    (kept,) = discovered(promtool, job, targets, tmp_path)
    assert {name: label for name, label in kept.items() if name[0] != "_"} == {
        "job": f"resnet/{NAMESPACE}/cats",
        "instance": "resnet-a",
        "namespace": NAMESPACE,
        "pod": "resnet-a",
    }


def test_prometheus_finds_the_admin_port_of_kserves_pods(promtool: str, tmp_path: Path, kserve: Objects) -> None:
    """With the scrape job that Prometheus' operator makes of a PodMonitor, as far as this one goes."""
    monitor, name = kserve["PodMonitor"]["spec"], kserve["InferenceService"]["metadata"]["name"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    meta = "__meta_kubernetes_pod"
    ((label, value),) = monitor["selector"]["matchLabels"].items()
    assert (label, value) == ("serving.kserve.io/inferenceservice", name)  # which KServe gives to the pods
    plain = f"{meta}_label_{re.sub('[^a-z]', '_', label)}"
    relabelings = [
        {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in one.items()}
        for one in endpoint["relabelings"]
    ]
    job = {
        "job_name": "podMonitor",
        "relabel_configs": [
            {"source_labels": [plain], "regex": value, "action": "keep"},
            {"source_labels": [f"{meta}_container_port_name"], "regex": endpoint["port"], "action": "keep"},
            *relabelings,
        ],
    }
    (served,) = kserve["ServingRuntime"]["spec"]["containers"]
    (port,) = served["ports"]
    pods = [("a", name, "Running"), ("starting", name, "Pending"), ("other", "other", "Running")]
    targets = [
        {
            "__address__": f"10.0.0.1:{port['containerPort']}",
            f"{meta}_name": f"resnet-predictor-{pod_name}",
            f"{meta}_phase": phase,
            f"{meta}_container_port_name": port["name"],
            "__meta_kubernetes_namespace": NAMESPACE,
            plain: service,
        }
        for pod_name, service, phase in pods
    ]
    (kept,) = discovered(promtool, job, targets, tmp_path)
    assert kept["instance"] == "resnet-predictor-a"
    assert kept["__address__"] == f"10.0.0.1:{environment(served)['RESNET_ADMIN_PORT']}"
    assert kept["job"] == f"resnet/{NAMESPACE}/{name}"


# ---- the page ----


def rendered(text: str, folder: Path) -> Objects:
    """A kustomization of the page, in a folder beside the checkout."""
    folder = folder.resolve() / "ours"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text.replace("../resnet-service", os.path.relpath(ROOT, folder)))
    return kustomize(folder)


def images_of(objects: Objects) -> set[str]:
    return set(re.findall(r'"image": "([^"]+)"', json.dumps(objects)))


def test_the_overlays_of_the_page_render(tmp_path: Path) -> None:
    """Those for models, for a rollback and for the service; and KServe's, which the page describes by what differs."""
    filling, taking_back, serving = re.findall(r"^```yaml\n(apiVersion: kustomize.*?)^```$", PAGE, re.M | re.S)
    parts = yaml.safe_load(serving)
    (cpu,) = parts["resources"]
    parts["resources"] = [cpu.replace("overlays/cpu", "kserve")]
    (watched,) = re.findall(r"^```yaml\n(components:.*?)^```$", (ROOT / "docs/operations.md").read_text(), re.M | re.S)
    parts |= yaml.safe_load(watched)
    parts["components"] = [component for component in parts["components"] if "pod-monitor" not in component]
    ours = "registry.example.com/resnet-service"
    for kind, text, images in (
        ("PersistentVolumeClaim", filling, {f"{ours}:export"}),
        ("Job", taking_back, {f"{ours}:export"}),
        ("Deployment", serving, {f"{ours}:service"}),
        ("InferenceService", yaml.safe_dump(parts), {f"{ours}:service"}),
    ):
        (tmp_path / kind).mkdir()
        objects = rendered(text, tmp_path / kind)
        assert kind in objects
        assert images_of(objects) == images
        if kind == "Deployment":
            assert objects["Ingress"]["spec"]["rules"][0]["host"] == "images.example.com"
            assert "PodMonitor" in objects
        if kind == "InferenceService":
            assert {"PodMonitor", "PrometheusRule"} <= objects.keys()
            assert objects["PodMonitor"]["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def with_patches(heading: str, folder: Path, **others: object) -> Objects:
    """The overlay of the page, with the components and patches that one of its sections adds."""
    (overlay,) = [text for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S) if "/overlays/cpu" in text]
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (added,) = re.findall(r"^```yaml\n((?:components|patches):.*?)^```$", section, re.M | re.S)
    return rendered(yaml.safe_dump(yaml.safe_load(overlay) | others | yaml.safe_load(added)), folder)


def test_patches_say_what_components_leave_open(tmp_path: Path) -> None:
    objects = with_patches("With Kustomize", tmp_path)
    (fetch,) = pod(objects)["initContainers"]
    assert fetch["args"][0] == "s3://bucket/prefix"
    (plain, *_), given = pair("fetch and tracing"), environment(container(objects))
    assert given == environment(container(plain)) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.traces.svc:4318",
        "RESNET_TARGET_WAIT_MS": "1000",
    }


def test_a_patch_tells_the_balancer_other_addresses_and_another_namespace(tmp_path: Path) -> None:
    components = ["../resnet-service/deploy/kubernetes/components/balancer"]
    objects = with_patches("In front of the pods", tmp_path, components=components, namespace="photos")
    (plain, *_) = pair("balancer")
    files, patched = (one["ConfigMap resnet-balancer"]["data"] for one in (plain, objects))
    lines = files["upstream.conf"].replace("pods.resnet.svc", "pods.photos.svc").splitlines()
    assert patched["upstream.conf"].splitlines() == [line for line in lines if not line.startswith("#")]
    assert patched["listen.conf"] != files["listen.conf"]
    by_helm = helm({"balancer": {"enabled": True, "listen": patched["listen.conf"]}})
    assert by_helm["ConfigMap resnet-balancer"]["data"]["listen.conf"] == patched["listen.conf"]


def test_the_policy_of_the_page_is_for_these_pods() -> None:
    (text,) = re.findall(r"^```yaml\n(apiVersion: networking.*?)^```$", PAGE, re.M | re.S)
    policy = yaml.safe_load(text)
    kubernetes_validate.validate(policy, VERSIONS[0], strict=True)
    for objects in pair("balancer"):
        ours = objects["NetworkPolicy"]["spec"]
        assert policy["spec"]["policyTypes"] == ours["policyTypes"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= ours["podSelector"]["matchLabels"].items()
        (rule,) = policy["spec"]["ingress"]
        assert (
            rule["ports"]
            == ours["ingress"][0]["ports"]
            == objects["NetworkPolicy resnet-balancer"]["spec"]["ingress"][0]["ports"]
        )


def test_the_commands_of_the_pages_name_what_there_is() -> None:
    """And images of a registry: nodes do not have those that `make docker` builds."""
    pages = PAGE + (ROOT / "docs/deploy.md").read_text()
    for path in re.findall(r"deploy/kubernetes[\w/.-]*", pages):
        assert (ROOT / path.rstrip(".")).exists(), path
    assert set(re.findall(r"kubectl (?:apply|create) -k (\S+)", pages)) == {"."}  # the files here name no registry
    commands = [shlex.split(line) for line in re.findall(r"^\$ (helm install .*)$", pages, re.M)]
    assert len(commands) == pages.count("helm install ")
    for _, _, name, chart, *options in commands:
        assert (name, ROOT / chart) == (RELEASE, CHART)
        values: Manifest = {}
        for option, value in zip(options[::2], options[1::2], strict=True):
            match option:
                case "-f":
                    values = merge(values, yaml.safe_load((ROOT / value).read_text()))
                case "--set":
                    values = merge(values, helm_python.parse_set_string(value))
                case _:
                    assert (option, value) == ("--namespace", NAMESPACE)
        assert all(image.startswith("registry.example.com/resnet-service:") for image in images_of(helm(values)))
    (new_key,) = re.findall(r"^\$ python (-m service\.keys new .*) >> keys\.toml$", PAGE, re.M)
    done = subprocess.run([sys.executable, *new_key.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    (entry,) = tomllib.loads(done.stdout).values()
    assert entry["scopes"] == ["metrics"]


def test_the_page_counts_as_the_pods_do(cpu: Objects) -> None:
    """The table of a pod's end."""
    given, one = environment(container(cpu)), container(cpu)
    hook = one["lifecycle"]["preStop"]["sleep"]["seconds"]
    closed = hook + float(given["RESNET_SHUTDOWN_DELAY"])
    cut = closed + float(given["RESNET_SHUTDOWN_TIMEOUT"])
    steps = [0, hook, closed, cut, cut + 2 * GRACE_S, pod(cpu)["terminationGracePeriodSeconds"]]
    table = PAGE.partition("## How a pod ends")[2].partition("\n## ")[0]
    assert [float(number) for number in re.findall(r"^\| (?:at most )?(\d+)", table, re.M)] == steps
