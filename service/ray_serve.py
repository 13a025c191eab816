"""The service as a deployment of Ray Serve, with one engine in each replica. Needs the extra `ray`.

    serve run deploy/ray/serve.yaml

Ray's proxy takes the place of the HTTP server: what that one limits (connections, slow clients, TLS) is the proxy's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import ray
from fastapi import FastAPI
from ray import serve

from service import logs
from service.app import create_app
from service.settings import Settings
from service.settings_sources import read_settings
from service.watchdog import end_process

LOOK_S = 0.1  # between looks whether loading has ended
# What a replica does not do, and where Ray does it.
INSTEAD = {
    "workers": "num_replicas or autoscaling_config of the deployment say how many processes there are",
    "admin_port": "replicas share Ray's port, which answers health and metrics, too",
    "grpc_port": "the deployment speaks HTTP only, with the Open Inference Protocol below /v2",
    "tls_certificate": "Ray's proxy speaks TLS, with ssl_certfile and ssl_keyfile of http_options",
}


class NotHere(ValueError):
    """A setting has no effect in a replica; the message names the remedy."""


class NotReady(Exception):
    """The replica cannot answer: Ray replaces it."""


def read(given: Mapping[str, object], cpus: float | None = None) -> Settings:
    """The service's settings: those given, then those of the environment.

    Args:
        cpus: of a replica. It uses no more, unless settings say so.

    Raises:
        SettingsError: one is unknown or out of range.
        NotHere
    """
    settings = read_settings([f"--{name.replace('_', '-')}={_text(value)}" for name, value in given.items()])
    for name, instead in INSTEAD.items():
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise NotHere(f"{name} has no effect in a replica of Ray Serve: unset it; {instead}")
    if cpus is None:
        return settings
    threads = {name: max(1, int(cpus)) for name in ("engine_threads", "decode_threads")}
    return settings.model_copy(
        update={name: most for name, most in threads.items() if name not in settings.model_fields_set}
    )


def _text(value: object) -> str:
    """A value of a configuration file, as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@serve.deployment
@serve.ingress()
class Replica:
    """The application, in a process of its own."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._settings = read(given, ray.get_runtime_context().get_assigned_resources().get("CPU"))
        self._fatal: list[Exception] = []
        logs.configure(self._settings.log_level, self._settings.log_format, access=self._settings.access_log)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray, which then runs the application's lifespan."""
        self._app = create_app(self._settings, on_fatal=self._fatal.append, on_hang=end_process)
        return self._app

    async def check_health(self) -> None:
        """Called by Ray, first before the replica gets requests: that call returns once the models are loaded.

        Raises:
            NotReady
        """
        while not self._app.state.ready():
            if self._fatal:
                raise NotReady(str(self._fatal[0]) or repr(self._fatal[0]))
            await asyncio.sleep(LOOK_S)


def application(args: dict[str, object]) -> serve.Application:
    """What `import_path` names in a configuration file.

    Args:
        args: settings of the service, by name.

    Raises:
        SettingsError, NotHere: here already, not only in the replicas.
    """
    read(args)
    return Replica.bind(args)  # type: ignore[attr-defined]
