"""What the container files say, held against the code they start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from service.api.problems import document
from service.errors import NotFound, RequestTooLarge
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NGINX = (ROOT / "docker/nginx.conf").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CUDA = yaml.safe_load((ROOT / "docker/compose.cuda.yml").read_text())
OURS = ("export", "service")


def stage(name: str) -> str:
    """The instructions of one Dockerfile stage."""
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    return str(found)


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_every_variable_is_a_setting() -> None:
    used = set(re.findall(rf"{PREFIX}[A-Z_]+", DOCKERFILE))
    for compose in (COMPOSE, CUDA):
        for service in compose["services"].values():
            used |= set(service.get("environment", {}))
    assert used
    assert used <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_settings_have_values_that_the_service_accepts() -> None:
    for compose in (COMPOSE, CUDA):
        environment = compose["services"]["service"]["environment"]
        Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in environment.items()})


def test_one_service_for_each_gpu() -> None:
    """A container sees one GPU, which is number 0 to it: the service's own setting stays as it is."""
    services = CUDA["services"]
    seen = [service["deploy"]["resources"]["reservations"]["devices"] for service in services.values()]
    assert seen == [[{"driver": "nvidia", "device_ids": [number], "capabilities": ["gpu"]}] for number in ("0", "1")]
    assert services["service"]["deploy"]["replicas"] == 1
    assert services["service-1"]["networks"]["default"]["aliases"] == ["service"]  # the name in docker/upstream.conf
    assert Settings.model_fields["gpu"].default == 0


def test_the_service_on_the_second_gpu_is_as_that_on_the_first() -> None:
    first = COMPOSE["services"]["service"] | CUDA["services"]["service"]
    second = CUDA["services"]["service-1"]
    apart = {"deploy", "profiles", "networks"}
    assert {name: second[name] for name in second if name not in apart} == {
        name: first[name] for name in first if name not in apart
    }


def test_a_gpu_is_given_time_for_its_first_start() -> None:
    (cpu,) = re.findall(r"--start-period=(\d+)s", DOCKERFILE)
    for service in CUDA["services"].values():
        assert seconds(service["healthcheck"]["start_period"]) > int(cpu)


def test_only_nginx_is_reached_from_outside() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["nginx"]
    (port,) = COMPOSE["services"]["nginx"]["ports"]
    assert f"listen {port.rpartition(':')[2]};" in NGINX
    assert not any("ports" in service for service in CUDA["services"].values())


def test_containers_are_hardened() -> None:
    for name, service in {**COMPOSE["services"], "service-1": CUDA["services"]["service-1"]}.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
    mounts = [mount for name in ("service", "nginx") for mount in COMPOSE["services"][name]["volumes"]]
    assert [mount for mount in mounts if not mount.endswith(":ro")] == ["cache:/cache"]
    assert "RESNET_CACHE_DIR=/cache" in stage("serving")


def test_images_are_built_from_stages_that_exist() -> None:
    built = [COMPOSE["services"][name] for name in OURS] + [CUDA["services"]["service"]]
    for service in built:
        target = service["build"]["target"]
        assert f"COPY --from=build-{target} /venv /venv" in stage(target)
        assert service["image"] == f"resnet-service:{target}"  # the tags of `make docker`


def test_extras_of_each_image() -> None:
    extras = {
        name: re.findall(r"'\.\[(.*)\]'", stage(f"build-{name}")) for name in ("service", "service-cuda", "export")
    }
    assert extras == {"service": ["cpu"], "service-cuda": ["cuda"], "export": ["engine,export"]}
    assert not any("model_export" in stage(name) for name in ("serving", "service", "service-cuda"))


def test_stopping_takes_as_long_as_the_service_may() -> None:
    service = COMPOSE["services"]["service"]
    environment = service["environment"]
    longest = float(environment["RESNET_SHUTDOWN_DELAY"]) + float(environment["RESNET_SHUTDOWN_TIMEOUT"])
    assert seconds(service["stop_grace_period"]) > longest


def test_balancer_waits_for_a_replica_as_long_as_it_says() -> None:
    timeouts: dict[str, Any] = dict(re.findall(r"^\s*(proxy_\w+_timeout) (\w+);", NGINX, re.M))
    # A replica that hangs for the whole of the one leaves time for another within the other.
    assert seconds(timeouts["proxy_next_upstream_timeout"]) > seconds(timeouts["proxy_read_timeout"])
    assert seconds(COMPOSE["services"]["nginx"]["stop_grace_period"]) > seconds(timeouts["proxy_read_timeout"])


def test_balancer_and_service_agree() -> None:
    (mebibytes,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    limit = Settings.model_fields["max_request_bytes"].default
    assert int(mebibytes) * 2**20 == limit
    too_large = document(RequestTooLarge(max_bytes=limit))
    for text in (too_large["title"], too_large["detail"], too_large["remedy"], NotFound.title):
        assert f'"{text}"' in NGINX
