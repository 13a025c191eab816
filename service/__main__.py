"""`resnet serve`, `resnet-service` or `python -m service`: serves the published models until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_commands import RUNTIME_EXTRA, run_program
from service import logs
from service.grpc_api.installed import NotInstalled, check_installed
from service.hard_end import leave
from service.keys import KeysError, read_entries
from service.runtime.build import this_build
from service.tls import TlsError
from service.tls import check as check_tls

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger("service")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0 after a clean shutdown, 1 if there is nothing to serve or the engine broke, 2 for a
    wrong setting or an incomplete installation, 3 if the port cannot be used.
    """
    _open_standard_streams()
    return run_program(_run, arguments, RUNTIME_EXTRA, "service")


def _run(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:
        print(this_build())
        return 0

    from service.settings_sources import SettingsError, read_settings  # need what an extra installs

    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format, access=settings.access_log)
    try:
        check_files(settings)
        if settings.grpc_port is not None:
            check_installed()
    except (KeysError, TlsError, NotInstalled) as error:
        log.error("%s", error)
        return 2
    if settings.workers > 1 and not hasattr(os, "memfd_create"):
        log.error("more than one worker needs Linux (memfd): set workers to 1")
        return 2
    status = serve(settings) if settings.workers == 1 else serve_with_workers(settings)
    if status == 0:
        log.info("stopped")
    leave(status)
    return status


def check_files(settings: Settings) -> None:
    """Raises KeysError or TlsError if a file that a setting names cannot be used."""
    if settings.api_keys_file:
        read_entries(settings.api_keys_file)
    if settings.tls_certificate:
        check_tls(settings.tls_certificate, settings.tls_key)


def _open_standard_streams() -> None:
    """Opens those that are closed: libuv could not close a socket that got the number of one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


# Both import what serves only now: `--help` and wrong settings answer at once, without FastAPI and ONNX Runtime.


def serve(settings: Settings) -> int:
    """Everything in this process."""
    from service import counter_files, sockets
    from service.app import create_app
    from service.metrics import Metrics
    from service.model_repository import RepositoryError
    from service.server import Server
    from service.tracing.setup import open_spans
    from service.watchdog import end_process

    counter_files.count_alone()
    counts = Metrics(settings.metrics_buckets)
    spans = open_spans()
    try:
        server = Server(
            settings,
            counts,
            lambda server: create_app(
                settings,
                metrics=counts,
                spans=spans,
                serving=lambda: not server.draining,
                closing=server.closing,
                on_fatal=server.fail,
                on_hang=end_process,
            ),
        )
    except RepositoryError as error:
        log.error("%s", error)
        return 1
    ports = {"--port": settings.port, "--admin-port": settings.admin_port, "--grpc-port": settings.grpc_port}
    for option, port in ports.items():
        if port is None:
            continue
        try:
            sockets.check(settings.host, port)
        except OSError as error:
            log.error("%s", sockets.explain(settings.host, port, error, option=option))
            return sockets.EXIT_UNUSABLE
    server.run()
    if spans:
        spans.close()
    if server.fatal:
        log.error("%s", str(server.fatal) or repr(server.fatal))
        return 1
    return 0


def serve_with_workers(settings: Settings) -> int:
    """HTTP and decoding in workers, computing in this process."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until there is something to stop

    from service import counter_files
    from service.workers.supervisor import supervise

    try:
        with counter_files.count_together():
            return supervise(settings)
    except counter_files.NoFolder as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
