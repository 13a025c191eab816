"""What traces cost: a service without them beside one that traces a request in a hundred, in alternating pairs.

wrk loads them in turn, as `benchmarks.regression` does with two source trees. The receiver is part of this program:
that it has the spans is checked, what it takes is not counted.

    python -m benchmarks.tracing [--starts 10] [--pairs 40] [--seconds 3] [--connections 8] [--ratio 0.01]
                                 [--model resnet8-cifar] [--service=OPTIONS] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.machine import describe, heading
from benchmarks.models import published
from benchmarks.regression import MODELS, TREES, add_options, measure, parsed, plan, report, save_pairs
from benchmarks.serving import Running, model_options, service


class Receiver(ThreadingHTTPServer):
    """Takes every export. Counts bytes."""

    received = 0


class _Export(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received += len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    server = Receiver(("127.0.0.1", 0), _Export)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    machine = describe()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__.partition("\n")[0])
    parser.add_argument("--ratio", type=float, default=0.01, help="of the requests, those traced (default: 0.01)")
    add_options(parser, "tracing", machine)
    args = parsed(parser)
    without, traced = TREES
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        options = model_options(published(*MODELS[args.model])) | args.service | {"cache-dir": cache}
        taken = stack.enter_context(receiver())
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.server_port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(args.ratio),
        }

        @contextmanager
        def start() -> Iterator[Mapping[str, Running]]:
            with service(options) as one, service(options, variables=variables) as other:
                yield {without: one, traced: other}

        samples = measure(start, args)
    if args.ratio and not taken.received:
        raise SystemExit("no span was received: is the extra `otel` installed?")
    text, ratios = report(samples, args.starts)
    print(heading(machine))
    print(plan(args))
    print(f"baseline: without traces; current: {args.ratio:g} of the requests traced, {taken.received} bytes of spans")
    print(f"\n{text}")
    save_pairs(args, machine, samples, ratios, ratio=args.ratio)


if __name__ == "__main__":
    main()
