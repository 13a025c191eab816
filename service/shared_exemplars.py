"""Exemplars of histograms that several processes count together: prometheus_client keeps them for one process only.

Each process writes its own to a file beside its counters, a second after the first change.
"""

from __future__ import annotations

import json
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from service.counter_files import FOLDER, exemplars_file

WITHIN_S = 1.0  # is written what has changed


class SharedHistogram(Histogram):
    """A histogram whose exemplars all processes can read. From any thread."""

    def __init__(self, *args: Any, exemplars: Exemplars, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kwargs["exemplars"] = exemplars  # for `labels`, which makes one of each
        self._exemplars = exemplars

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        super().observe(amount)
        if exemplar:
            edge = self._upper_bounds[bisect_left(self._upper_bounds, amount)]
            labels = dict(zip(self._labelnames, self._labelvalues, strict=True))
            self._exemplars.keep(_key(f"{self._name}_bucket", {**labels, "le": _text(edge)}), exemplar, amount)


class WithExemplars(CollectorRegistry):
    """A registry over all processes, whose buckets have the newest exemplar of any of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._all = registry

    def collect(self) -> Iterator[Metric]:
        found = _read(os.environ[FOLDER])
        for metric in self._all.collect():
            if metric.type == "histogram":
                metric.samples = [
                    sample._replace(exemplar=found.get(_key(sample.name, sample.labels))) for sample in metric.samples
                ]
            yield metric


class Exemplars:
    """The last exemplar of each bucket in this process, by `_key`: ids, value and time."""

    def __init__(self, folder: str) -> None:
        """
        Args:
            folder: in which the processes count.
        """
        self._folder = folder
        self._found: dict[str, tuple[Mapping[str, str], float, float]] = {}
        self._changing, self._writing = threading.Lock(), threading.Lock()
        self._due = False

    def keep(self, key: str, ids: Mapping[str, str], value: float) -> None:
        with self._changing:
            self._found[key] = (ids, value, time.time())
            if self._due:
                return
            later = threading.Timer(WITHIN_S, self._write)
            later.daemon = True
            # No thread can be started: the answer counts more, and the next one tries again.
            with suppress(RuntimeError):
                later.start()
                self._due = True

    def _write(self) -> None:
        with self._writing:  # the last one may take longer than WITHIN_S
            with self._changing:
                self._due = False
                text = json.dumps(self._found)
            file = exemplars_file(self._folder, os.getpid())
            new = file.with_suffix(".new")
            with suppress(OSError):  # a full disk: requests are served all the same
                new.write_text(text)
                new.replace(file)


_text: Callable[[float], str] = floatToGoString  # of an edge, as in the label `le`


def _key(name: str, labels: Mapping[str, str]) -> str:
    return json.dumps([name, labels], sort_keys=True)


def _read(folder: str) -> dict[str, Exemplar]:
    """The newest of all processes, by `_key`."""
    found: dict[str, Exemplar] = {}
    for file in Path(folder).glob("exemplars_*.json"):
        with suppress(OSError):  # its process has just ended
            for key, (ids, value, when) in json.loads(file.read_text()).items():
                if key not in found or (found[key].timestamp or 0) < when:
                    found[key] = Exemplar(ids, value, when)
    return found
