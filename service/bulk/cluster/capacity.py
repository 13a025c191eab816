"""What a run takes of a cluster, engines and decoding, whether there is room for it, and the wait until there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import ray
import ray.data
from ray.util import placement_group, remove_placement_group

from service.bulk.stream import Ended

DECODING_CPUS = 1
LOOK_S = 1  # for room, before the next look whether the run is stopped
SOON_S = 5.0  # of waiting, until it is told
AGAIN_S = 120.0  # between two lines


class Engines(NamedTuple):
    """How the engines share the cluster.

    Attributes:
        number: how many there are; None: one at first, and more while they are what the run waits for.
        cpus, gpus: of each. `gpus` may be a share of one; None: one each if the cluster has any.
    """

    number: int | None
    cpus: int
    gpus: float | None


class Share(NamedTuple):
    """What one engine takes, on one machine. Decoding takes a CPU beside it, on any machine."""

    cpus: int
    gpus: float

    @classmethod
    def of(cls, engines: Engines) -> Share:
        """On the cluster that is connected."""
        if engines.gpus is not None:
            return cls(engines.cpus, engines.gpus)
        return cls(engines.cpus, 1.0 if ray.cluster_resources().get("GPU") else 0.0)

    def most(self, engines: Engines) -> int:
        """How many engines the cluster has room for when nobody else uses it.

        Raises:
            Ended: one, or as many as were asked for, never find room.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = room(nodes, self)
        if most < (engines.number or 1):
            cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
            raise Ended(
                f"the cluster's machines ({len(nodes)}, with {cpus:g} CPUs and {gpus:g} GPUs) have room for {most} "
                f"engines of {self.cpus} CPUs and {self.gpus:g} GPUs, each on one machine and beside "
                "decoding; choose fewer or smaller ones by --engines, --engine-cpus and --engine-gpus, or add machines"
            )
        return most

    def wait_for_room(self, tell: Callable[[str], None], stopped: Callable[[], bool]) -> None:
        """Returns when an engine and decoding have room beside what others do on the cluster, or when stopped.

        Ray's own wait is silent. So the room is reserved first, and given back for the run once it is there.

        Args:
            tell: is given a line soon, and another one now and then.

        Raises:
            Ended: there was none for as long as a run may stand still.
        """
        longest = ray.data.DataContext.get_current().execution_no_progress_timeout_s
        engine: dict[str, float] = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        reserved = placement_group([engine, {"CPU": DECODING_CPUS}])
        began, next_s = monotonic(), SOON_S
        try:
            while not reserved.wait(LOOK_S) and not stopped():
                waited = monotonic() - began
                if 0 < longest <= waited:
                    raise Ended(
                        f"the cluster had no room for {longest:g} s: {self._wanting()}; start again when others end, "
                        "or set RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S to wait longer (-1: without end)"
                    )
                if waited >= next_s:
                    tell(f"waiting for room on the cluster: {self._wanting()}")
                    next_s = waited + AGAIN_S
        finally:
            remove_placement_group(reserved)

    def _wanting(self) -> str:
        free, has = ray.available_resources(), ray.cluster_resources()
        each = f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        left = [f"{free.get(kind, 0):g} of {has[kind]:g} {kind}s" for kind in ("CPU", "GPU") if has.get(kind)]
        return f"an engine takes {each} of one machine, decoding {DECODING_CPUS} CPU; free are {' and '.join(left)}"


def room(nodes: Sequence[Mapping[str, float]], share: Share) -> int:
    """How many engines find room on some machines, beside one task that decodes.

    Args:
        nodes: resources of each machine, by Ray's names.
        share: what each takes. A share of a GPU is one of a single GPU.
    """
    engines, decoding = 0, False
    for node in nodes:
        here = int(node.get("CPU", 0) // share.cpus)
        if share.gpus:
            has = node.get("GPU", 0)
            here = min(here, int(has) * int(1 / share.gpus) if share.gpus < 1 else int(has // share.gpus))
        engines += here
        decoding |= node.get("CPU", 0) - here * share.cpus >= DECODING_CPUS
    return engines if decoding else max(0, engines - 1)
