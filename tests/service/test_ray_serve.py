"""The deployment of Ray Serve, as far as it is not Ray's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from service.ray_serve import NotHere, application, read
from service.settings import Settings
from service.settings_sources import SettingsError

pytestmark = pytest.mark.usefixtures("no_settings")

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "ray" / "serve.yaml").read_text())


def test_a_replica_uses_its_cpus() -> None:
    settings = read({"models_dir": "/m", "decode_threads": 3}, 2.0)
    assert (settings.engine_threads, settings.decode_threads) == (2, 3)


def test_lists_are_those_of_yaml() -> None:
    """As the file of Ray has them; the service's own settings are separated by commas."""
    given = yaml.safe_load("{models: [resnet50, resnet18], metrics_buckets: [0.1, 1], strict: true}")
    settings = read(given)
    assert (settings.models, settings.metrics_buckets) == (("resnet50", "resnet18"), (0.1, 1.0))
    assert settings.strict is True


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("workers", 2, "num_replicas or autoscaling_config"),
        ("admin_port", 9000, "replicas share Ray's port"),
        ("grpc_port", 8001, "HTTP only"),
        ("tls_certificate", "/c.pem", "ssl_certfile and ssl_keyfile"),
    ],
)
def test_settings_that_have_no_effect(name: str, value: object, instead: str) -> None:
    with pytest.raises(NotHere, match=f"{name} has no effect in a replica of Ray Serve: unset it; .*{instead}"):
        read({name: value})


def test_wrong_settings_end_the_deployment() -> None:
    with pytest.raises(SettingsError, match="request_timeout"):
        application({"request_timeout": "soon"})


def test_the_file_is_one_that_ray_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(CONFIG)
    assert schema.applications[0].import_path == f"{application.__module__}:{application.__name__}"


def test_the_file_fits_the_service() -> None:
    """Limits of time that depend on each other stand in two places."""
    (deployment,) = CONFIG["applications"][0]["deployments"]
    settings = Settings()
    assert deployment["graceful_shutdown_timeout_s"] > settings.request_timeout
    assert CONFIG["http_options"]["request_timeout_s"] > settings.request_timeout
    assert deployment["health_check_timeout_s"] == settings.hang_timeout
    assert deployment["autoscaling_config"]["target_ongoing_requests"] < deployment["max_ongoing_requests"]
