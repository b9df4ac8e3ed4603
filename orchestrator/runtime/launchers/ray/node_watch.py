"""Looking at Ray's nodes: those that can be used now, and, while workers run, room for more and nodes that leave.

A node counts when its raylet answers at its port. Ray calls a node alive until it has missed health checks, and workers
placed meanwhile on a dead one would wait for it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.cluster.nodes import ray_nodes
from orchestrator.plans.placement.inventory import Inventory

LOOK_S = 2.0
"""Between two looks while workers run."""
KNOCK_TIMEOUT_S = 1.0


def usable_nodes() -> Inventory:
    """The nodes that live, answer, and are not about to be taken away.

    Ray itself calls a node alive until it has missed several health checks; who knocks at its door knows at once.
    """
    import ray
    from ray._private.state import available_resources_per_node

    leaving = leaving_nodes()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = list(pool.map(opens, nodes))
    usable = [node for node, answered in zip(nodes, answers, strict=True) if answered]
    return ray_nodes.read(usable, available_resources_per_node())


def leaving_nodes() -> Mapping[str, int]:
    """Ids of the nodes that are about to be taken away, with the time of that in ms (0: not known)."""
    from ray._private.state import state

    draining: Mapping[str, int] = state.get_draining_nodes()
    return draining


def opens(node: Mapping[str, Any]) -> bool:
    """Whether somebody answers a knock at the door of one of Ray's nodes."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), KNOCK_TIMEOUT_S).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def repeated(look: Callable[[], None], interval_s: float = LOOK_S) -> Iterator[None]:
    """Look again and again, in a thread, for the time of a block. What a look cannot find out, the next one may."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(interval_s):
            with contextlib.suppress(Exception):
                look()

    thread = threading.Thread(target=run, name="look at nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
