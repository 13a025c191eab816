"""wrk (https://github.com/wg/wrk), the load generator: one JPEG as the raw body, over and over."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["content-type"] = "image/jpeg"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests": %d, "us": %d, "failed": %d, "p50": %f, "p95": %f, "p99": %f}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


class Load(NamedTuple):
    """What one run of wrk saw: rates per second, latencies in milliseconds."""

    images_per_second: float
    p50: float
    p95: float
    p99: float


def run(url: str, body: bytes, *, connections: int, seconds: int, folder: Path) -> Load:
    """Closed-loop load on 127.0.0.1.

    Raises:
        RuntimeError: wrk is not installed, or a request failed.
    """
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is not installed (Debian: apt-get install wrk)")
    image, script = folder / "body.jpg", folder / "post.lua"
    image.write_bytes(body)
    script.write_text(SCRIPT.format(body=image))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.strip().splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"{found['failed']} of {found['requests']} requests failed:\n{output}")
    return Load(found["requests"] / found["us"] * 1e6, found["p50"], found["p95"], found["p99"])
