"""`python -m service`: serves the published models until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from service.settings import Settings
from service.settings_sources import SettingsError, read_settings

log = logging.getLogger("service")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0 after a clean shutdown, 1 if there is nothing to serve or the engine broke, 2 for a
    wrong setting, 3 if the port cannot be used.
    """
    _open_standard_streams()
    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    status = serve(settings) if settings.workers == 1 else serve_with_workers(settings)
    if status == 0:
        log.info("stopped")
    return status


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
    from service import metrics, sockets
    from service.app import create_app
    from service.model_repository import RepositoryError
    from service.server import Server

    metrics.count_alone()
    counts = metrics.Metrics()
    try:
        server = Server(
            settings,
            counts,
            lambda server: create_app(
                settings, metrics=counts, serving=lambda: not server.draining, on_fatal=server.fail
            ),
        )
        sockets.check(settings.host, settings.port)
    except RepositoryError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("%s", sockets.explain(settings.host, settings.port, error))
        return sockets.EXIT_UNUSABLE
    server.run()
    if server.fatal:
        log.error("%s", str(server.fatal) or repr(server.fatal))
        return 1
    return 0


def serve_with_workers(settings: Settings) -> int:
    """HTTP and decoding in workers, computing in this process."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until there is something to stop

    from service import metrics
    from service.workers.supervisor import supervise

    try:
        with metrics.count_together():
            return supervise(settings)
    except metrics.NoFolder as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
