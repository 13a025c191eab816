"""A Prometheus with the rules of deploy/prometheus, in front of services on this machine. For tests, too.

There, a minute takes a second, or less: the durations of the rules are divided, their expressions are the same.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from benchmarks.ports import free_ports

DEPLOY = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = ("recording-rules.yml", "alerts.yml")
JOB = "resnet"
START_S = 60
SCRAPE_S = 1
SHORTENED = 60  # a minute takes a second
# The shortest window: a rate needs two samples, and a busy machine is late with some.
LEAST_WINDOW_S = 8
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Labels = Mapping[str, str]


class Curve(NamedTuple):
    """One series: its labels, and its values by seconds since the epoch."""

    labels: Labels
    times: list[float]
    values: list[float]


class Prometheus(NamedTuple):
    url: str

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """The values now. Raises httpx.HTTPStatusError if it cannot be computed."""
        found = self._get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def curves(self, expression: str, start: float, end: float, step: float) -> list[Curve]:
        """The values over time, in seconds since the epoch. Raises as `query` does."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [
            Curve(
                each["metric"], [float(at) for at, _ in each["values"]], [float(value) for _, value in each["values"]]
            )
            for each in found
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Those that fire, with labels and annotations."""
        return [alert for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]

    def firing(self) -> set[str]:
        """The names of those that fire."""
        return {alert["labels"]["alertname"] for alert in self.alerts()}

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return found

    def _get(self, path: str, **parameters: object) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60, verify=False)  # type: ignore[arg-type]
        answer.raise_for_status()
        return answer.json()["data"]


def shortened(rules: str, by: float = SHORTENED) -> str:
    """Rules with all durations divided by `by`; windows are `LEAST_WINDOW_S` at least."""

    def divided(duration: re.Match[str], least: float) -> str:
        seconds = int(duration["number"]) * UNITS[duration["unit"]] / by
        return f"{duration['before']}{round(1000 * max(least, seconds))}ms"

    window = r"(?P<before>\[)(?P<number>\d+)(?P<unit>[smhd])(?=\])"
    wait = r"(?P<before>^ *(?:for|interval): )(?P<number>\d+)(?P<unit>[smhd])$"
    rules = re.sub(window, lambda found: divided(found, LEAST_WINDOW_S), rules)
    return re.sub(wait, lambda found: divided(found, SCRAPE_S), rules, flags=re.M)


@contextmanager
def prometheus(
    folder: Path, ports: Sequence[int], scrape: Mapping[str, object] | None = None, shortened_by: float = SHORTENED
) -> Iterator[Prometheus]:
    """Runs deploy/prometheus/prometheus.yml with other addresses and shorter times.

    Args:
        folder: for its files.
        ports: those that answer `/metrics`, on this machine.
        scrape: another scrape config, in place of that of the file.
        shortened_by: as in `shortened`.

    Raises:
        RuntimeError: Prometheus did not start; the message is its log.
    """
    folder.mkdir(exist_ok=True)
    for name in RULES:
        (folder / name).write_text(shortened((DEPLOY / name).read_text(), shortened_by))
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], f"{SCRAPE_S}s")
    (example,) = config["scrape_configs"]
    assert example["job_name"] == JOB
    targets = [f"127.0.0.1:{port}" for port in ports]
    config["scrape_configs"] = [scrape or {"job_name": JOB, "static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["prometheus", *options], stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus did not start: {log.read_text()}")
            time.sleep(0.05)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", verify=False).status_code == 200
    except httpx.TransportError:
        return False
