"""What the container files say, held against the code they start."""

from __future__ import annotations

import re
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api.problems import document
from service.errors import NotFound, RequestTooLarge
from service.hard_end import GRACE_S
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NGINX = (ROOT / "docker/nginx.conf").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
TLS = yaml.safe_load((ROOT / "docker/compose.tls.yml").read_text())
CUDA = yaml.safe_load((ROOT / "docker/compose.cuda.yml").read_text())
OURS = ("export", "service")


def stage(name: str) -> str:
    """The instructions of one Dockerfile stage."""
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    return str(found)


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def in_bytes(size: str) -> int:
    return int(size[:-1]) * {"m": 2**20, "g": 2**30}[size[-1]]


def tmpfs_bytes(service: dict[str, Any]) -> int:
    (size,) = re.findall(r"size=(\w+)", service["tmpfs"])
    return in_bytes(size)


def memory(service: dict[str, Any]) -> int:
    return in_bytes(service["mem_limit"])


def directive(name: str) -> int:
    """The number in a directive of docker/nginx.conf: `directive("limit_conn large")`."""
    (number,) = re.findall(rf"^ *{name} (\d+)[sm]?;", NGINX, re.M)
    return int(number)


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
    for file in ("listen.conf", "listen-tls.conf"):
        assert re.findall(r"^listen (\d+)", (ROOT / "docker" / file).read_text(), re.M) == [port.rpartition(":")[2]]
    assert not any("ports" in service for service in CUDA["services"].values())


def test_containers_are_hardened() -> None:
    for name, service in {**COMPOSE["services"], "service-1": CUDA["services"]["service-1"]}.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        path, _, options = service["tmpfs"].partition(":")
        assert path == "/tmp"
        assert {"noexec", "nosuid", "nodev"} <= set(options.split(","))
        assert tmpfs_bytes(service) < memory(service), name  # which counts as its memory
        assert service["pids_limit"] > 0, name
    mounts = [mount for name in ("service", "nginx") for mount in COMPOSE["services"][name]["volumes"]]
    assert [mount for mount in mounts if not mount.endswith(":ro")] == ["cache:/cache"]
    assert "RESNET_CACHE_DIR=/cache" in stage("serving")


def test_images_are_built_from_stages_that_exist() -> None:
    built = [COMPOSE["services"][name] for name in OURS] + [CUDA["services"]["service"]]
    for service in built:
        target = service["build"]["target"]
        assert f"COPY --from=build-{target} /venv /venv" in stage(target)
        assert service["image"] == f"resnet-service:{target}"  # the tags of `make docker`


def test_the_service_images_hold_no_exporter() -> None:
    assert not any("model_export" in stage(name) for name in ("serving", "service", "service-cuda"))


@pytest.mark.parametrize("image", ["export", "service", "service-cuda"])
def test_images_name_their_build(image: str) -> None:
    labels = dict(re.findall(r"org\.opencontainers\.image\.(\w+)=\$(\w+)", stage(image)))
    assert labels == {"revision": "COMMIT", "created": "CREATED", "version": "VERSION"}
    assert "ENV BUILD_COMMIT=$COMMIT" in stage(image)
    assert set(re.findall(r"^ARG (\w+)=$", stage(image), re.M)) == set(labels.values())


def test_make_gives_the_images_their_build() -> None:
    finished = subprocess.run(["make", "--dry-run", "docker"], cwd=ROOT, capture_output=True, text=True, check=True)
    given = dict(re.findall(r"--build-arg (\w+)=\$\((.*?)\)(?=\s)", finished.stdout))
    assert given.keys() == {"COMMIT", "CREATED", "VERSION"}
    version = subprocess.run(
        ["sh", "-c", given["VERSION"]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert version.strip() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    created = subprocess.run(["sh", "-c", given["CREATED"]], capture_output=True, text=True, check=True).stdout
    assert datetime.fromisoformat(created.strip()).tzinfo == UTC


def test_every_image_holds_what_starts_its_program() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for image in ("export", "service", "service-cuda"):
        copied = re.findall(r"^COPY (\w\S*) /app/", stage(image), re.M)
        assert {"resnet_commands.py", "service"} <= set(copied)
        assert {f"!{path}" for path in copied} <= set(ignored)


def test_stopping_takes_as_long_as_the_service_may() -> None:
    service = COMPOSE["services"]["service"]
    environment = service["environment"]
    longest = float(environment["RESNET_SHUTDOWN_DELAY"]) + float(environment["RESNET_SHUTDOWN_TIMEOUT"]) + 2 * GRACE_S
    assert seconds(service["stop_grace_period"]) > longest
    (systemd,) = re.findall(r"TimeoutStopSec=(\d+)", (ROOT / "docs" / "deploy.md").read_text())
    assert int(systemd) > longest


def test_a_service_with_many_cores_stays_within_its_memory() -> None:
    budget = 4 * Settings(decode_threads=64).memory.requests
    assert budget + 2 * 2**30 < memory(COMPOSE["services"]["service"])


def test_balancer_waits_for_a_replica_as_long_as_it_says() -> None:
    silence, replays = directive("proxy_read_timeout"), directive("proxy_next_upstream_timeout")
    # After a replica that hangs for the whole of the one, another is tried within the other; after that one, none.
    assert silence < replays < 2 * silence
    # A request that takes too long gets the service's own answer.
    assert silence > Settings().request_timeout
    assert seconds(COMPOSE["services"]["nginx"]["stop_grace_period"]) > 2 * silence


def test_the_uploads_that_the_balancer_holds_fit_its_memory() -> None:
    """Sizes are those that the number of digits in Content-Length allows."""
    nginx = COMPOSE["services"]["nginx"]
    largest = {
        "all": 10**5 - 1,
        "small": 10**6 - 1,
        "medium": 10**7 - 1,
        "large": directive("client_max_body_size") * 2**20,
    }
    held = {size: directive(f"limit_conn {size}") * largest[size] for size in largest}
    assert largest["small"] <= directive("client_body_buffer_size") * 2**20
    assert held["medium"] + held["large"] <= tmpfs_bytes(nginx)
    connections = directive("worker_processes") * directive("worker_connections")
    headers = connections * 33 * 1024  # nginx's own limits: 1 kB and four of 8 kB
    assert sum(held.values()) + headers < memory(nginx)
    assert directive("limit_conn all") * 2 <= connections  # each needs another one to a replica


def test_one_client_gets_half_of_what_the_balancer_holds() -> None:
    for size, of_client in {
        "all": "client",
        **{size: f"{size}_client" for size in ("small", "medium", "large")},
    }.items():
        assert directive(f"limit_conn {of_client}") * 2 == directive(f"limit_conn {size}")


def test_the_balancer_may_open_a_file_for_each_connection() -> None:
    files = directive("worker_rlimit_nofile")
    assert files > directive("worker_connections") + directive("limit_conn medium") + directive("limit_conn large")
    assert COMPOSE["services"]["nginx"]["ulimits"] == {"nofile": files}


def test_every_file_that_the_balancer_reads_is_mounted() -> None:
    included = {f"/etc/nginx/{name}" for name in ("nginx.conf", *re.findall(r"include (\S+);", NGINX))}
    for compose in (COMPOSE, TLS):
        mounts = [mount.rsplit(":", 2) for mount in compose["services"]["nginx"]["volumes"]]
        assert all(mode == "ro" for *_, mode in mounts)
        assert all((ROOT / source).exists() for source, *_ in mounts if source.startswith("./docker"))
        assert {target for _, target, _ in mounts} & included
    assert {target for _, target, _ in (m.rsplit(":", 2) for m in COMPOSE["services"]["nginx"]["volumes"])} == included


def test_balancer_and_service_agree() -> None:
    (mebibytes,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    limit = Settings.model_fields["max_request_bytes"].default
    assert int(mebibytes) * 2**20 == limit
    too_large = document(RequestTooLarge(max_bytes=limit))
    for text in (too_large["title"], too_large["detail"], too_large["remedy"], NotFound.title):
        assert f'"{text}"' in NGINX
