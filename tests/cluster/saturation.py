"""Whether busy machines are taken for dead: `make saturation`, as root.

Starts a cluster of three hosts, and on each of them twice as many programs as there are CPUs that do nothing but count.
Prints what the head says of the machines all the while; exit code 1: it gave up a healthy one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack

from tests.cluster.hosts import Hosts
from tests.cluster.started import spec, started

COUNT = "while True: pass"
LOOK_EVERY_S = 10.0


def main(minutes: float) -> int:
    """Watch for so long."""
    with Hosts(3) as hosts, started(hosts, spec(hosts, "busy", hosts.all)) as person, ExitStack() as stack:
        for host in hosts.all:
            for _ in range(2 * (os.cpu_count() or 1)):
                burner = stack.enter_context(host.popen([sys.executable, "-S", "-c", COUNT]))
                stack.callback(burner.kill)
        first = {node["node_id"] for node in json.loads(person.gets("nodes", "--json"))}
        end = time.monotonic() + 60 * minutes
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(LOOK_EVERY_S, left))
            nodes = json.loads(person.gets("nodes", "--json"))
            load = os.getloadavg()[0]
            alive = {node["node_id"] for node in nodes if node["alive"]}
            print(f"{left:5.0f} s left, load {load:.0f} on {os.cpu_count()} CPUs: {len(alive)} of 3 alive", flush=True)
            if alive != first:
                print(json.dumps(nodes, indent=2))
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
