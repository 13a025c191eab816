"""Closed-loop load by wrk on a peer: as `benchmarks.wrk`, for any body, and with failures counted.

wrk counts what is answered before its time is up. A server that batches has then up to a batch unanswered, which costs
it that much of its rate: with 8 images a batch and 20 requests/s, at most 7 % in 6 s.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import wrk
from benchmarks.peers.servers import Server


class ClosedLoad(NamedTuple):
    """What one run of wrk saw: good answers per second, latencies of all answers in milliseconds (NaN: none)."""

    per_second: float
    failed: int  # answers other than 2xx and 3xx, broken connections, timeouts
    p50: float
    p95: float
    p99: float


def run(server: Server, *, connections: int, seconds: int) -> ClosedLoad:
    """Posts the server's body over and over, from as many connections at once."""
    with tempfile.TemporaryDirectory() as name:
        body, script = Path(name) / "body", Path(name) / "post.lua"
        body.write_bytes(server.body)
        kind = f'wrk.headers["content-type"] = "{server.content_type}"\n'
        script.write_text(wrk.SCRIPT.format(body=body) + kind)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), server.url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.strip().splitlines()[-1])
    # wrk counts answers with an error status among its requests
    good = max(0, found["requests"] - found["failed"])
    p50, p95, p99 = (found[name] if found["requests"] else math.nan for name in ("p50", "p95", "p99"))
    return ClosedLoad(good / found["us"] * 1e6, found["failed"], p50, p95, p99)
