"""Closed-loop load by wrk (https://github.com/wg/wrk): one request body, sent over and over."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from service.bench.requests import NO_HEADERS

SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f, "p99": %f}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


class Summary(NamedTuple):
    """What one run of wrk counted; latencies in milliseconds."""

    requests: int  # answers, including those with an error status
    seconds: float
    failed: int  # answers other than 2xx and 3xx, broken connections, timeouts
    p50: float
    p95: float
    p99: float


class Load(NamedTuple):
    """A load in which no request failed; latencies in milliseconds."""

    images_per_second: float
    p50: float
    p95: float
    p99: float


def summary(
    url: str, body: bytes, *, content_type: str, connections: int, seconds: int, headers: Mapping[str, str] = NO_HEADERS
) -> Summary:
    """POSTs `body` over so many connections for so long, each as soon as the answer before has come.

    Args:
        headers: further ones.

    Raises:
        FileNotFoundError: wrk is not installed.
        CalledProcessError: wrk failed.
    """
    if not shutil.which("wrk"):
        raise FileNotFoundError("wrk is not installed (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "body", Path(folder) / "post.lua"
        file.write_bytes(body)
        lines = [
            f'wrk.headers["{name}"] = "{value}"' for name, value in {"content-type": content_type, **headers}.items()
        ]
        script.write_text(SCRIPT.format(body=file, headers="\n".join(lines)))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Summary(**json.loads(output.strip().splitlines()[-1]))


def run(url: str, jpeg: bytes, *, connections: int, seconds: int) -> Load:
    """Loads a service with a JPEG file as the raw body.

    Raises:
        FileNotFoundError, CalledProcessError: as `summary`.
        RuntimeError: a request failed, or none was answered.
    """
    found = summary(url, jpeg, content_type="image/jpeg", connections=connections, seconds=seconds)
    if found.failed or not found.requests:
        raise RuntimeError(f"{found.failed} requests failed, {found.requests} were answered")
    return Load(found.requests / found.seconds, found.p50, found.p95, found.p99)
