"""Whether Ray still stands: Ray Tune waits without end for one that is gone, and others for long, so somebody looks.

A process that lives but has no time is not taken for dead: the system answers a knock at its door for it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping

from orchestrator.runtime.launchers.ray import node_watch

LOOK_S = 1.0
OWN_S = 3.0
"""For so long nobody must answer before a Ray of our own, which nobody starts again, counts as gone."""
CLUSTER_S = 60.0
"""The same of a cluster, whose head may be started again."""
DOORS = {"head": "The head of Ray", "node": "Ray on this machine"}


@contextlib.contextmanager
def watched(lost: Callable[[str], None], *, own: bool) -> Iterator[HeadWatch]:
    """Look at the Ray that this process has joined for the time of a block; `lost` is told what is gone."""
    watch = HeadWatch(_doors(), OWN_S if own else CLUSTER_S, lost)
    with node_watch.repeated(watch.look, LOOK_S):
        yield watch


def _doors() -> dict[str, tuple[str, int]]:
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {"head": (host, int(port)), "node": (node["NodeManagerAddress"], int(node["NodeManagerPort"]))}


class HeadWatch:
    """Knocks, and tells when nobody has answered for too long."""

    def __init__(
        self,
        doors: Mapping[str, tuple[str, int]],
        patience_s: float,
        lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doors = doors
        self._patience = patience_s
        self._lost = lost
        self._clock = clock
        self._answered = dict.fromkeys(doors, clock())

    def look(self) -> None:
        """Knock at each door; tell of one at which nobody has answered for too long."""
        self._knock(self._patience)

    def check(self) -> None:
        """Tell now of a door at which nobody answers: something has happened for which that is the reason."""
        self._knock(0.0)

    def _knock(self, patience_s: float) -> None:
        for name, door in self._doors.items():
            if _opens(door):
                self._answered[name] = self._clock()
            elif self._clock() - self._answered[name] >= patience_s:
                self._lost(f"{DOORS[name]} does not answer any more at {door[0]}:{door[1]}.")
                return


def _opens(door: tuple[str, int]) -> bool:
    try:
        socket.create_connection(door, node_watch.KNOCK_TIMEOUT_S).close()
    except OSError:
        return False
    return True
