"""`python -m service`: serve the published models until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence

from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger("service")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0 after a clean shutdown, 1 when there is nothing to serve or the engine is broken, 2
    for a wrong setting, 3 when the port cannot be had.
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
    status = serve_here(settings) if settings.workers == 1 else serve_with_workers(settings)
    if status == 0:
        log.info("stopped")
    return status


def _open_standard_streams() -> None:
    """Those that are closed: a socket that got the number of one could not be closed by libuv."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


# What serves is imported where it is needed: prometheus_client looks at its import whether to count for one process or
# for several.
COUNTERS = "PROMETHEUS_MULTIPROC_DIR"


def serve_here(settings: Settings) -> int:
    """Everything in this process."""
    for name in (COUNTERS, COUNTERS.lower()):  # somebody else's; with it, counters would outlive the process
        os.environ.pop(name, None)
    from service import ports
    from service.repository import RepositoryError
    from service.server import Server

    try:
        server = Server(settings)
        ports.check(settings.host, settings.port)
    except RepositoryError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("%s", ports.fault(settings.host, settings.port, error))
        return ports.UNUSABLE
    server.run()
    if server.fatal:
        log.error("%s", str(server.fatal) or repr(server.fatal))
        return 1
    return 0


def serve_with_workers(settings: Settings) -> int:
    """Workers talk HTTP and decode; this process computes."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until there is something to stop
    try:
        folder = tempfile.TemporaryDirectory(prefix="resnet-service-")
    except OSError as error:
        log.error("there is no folder for the workers' counters: %s; set TMPDIR", error)
        return 1
    with folder as counters:
        os.environ[COUNTERS] = counters
        from service.workers.main import serve

        return serve(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
