"""Whether the packages of the extra `grpc` are there. Imports none of them."""

from __future__ import annotations

from importlib.util import find_spec

# Package and module.
NEEDED = {"grpcio": "grpc", "grpcio-health-checking": "grpc_health", "grpcio-reflection": "grpc_reflection"}


class NotInstalled(Exception):
    """The service cannot speak gRPC; the message says what to install."""


def check_installed() -> None:
    """Raises NotInstalled."""
    for package, module in NEEDED.items():
        if find_spec(module) is None:
            raise NotInstalled(
                f"grpc_port is set, but {package} is not installed: run pip install 'resnet-service[grpc]', or unset "
                "grpc_port"
            )
