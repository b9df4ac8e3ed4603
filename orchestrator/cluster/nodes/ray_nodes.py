"""What the nodes of a live Ray cluster have, and what of it is free.

Run as `python -m orchestrator.cluster.nodes.ray_nodes ADDRESS` it prints them as JSON: a process of its own, because
joining Ray starts threads and takes over signals. The last line is the answer: {"nodes": [...]} or {"error": "..."}.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plans.placement.inventory import Free, Gpu, Inventory, Node

ACCELERATOR = "accelerator_type:"
NODE_ID = "ray.io/node-id"
"""The label under which Ray keeps a node's id."""
OLD_GPUS = {"K80": (3, 7), "P4": (6, 1), "P100": (6, 0), "V100": (7, 0), "T4": (7, 5)}
"""Compute capability of the types that Ray knows and that do not compute bf16."""


def live() -> Inventory:
    """The nodes that are alive, in a process that has joined their cluster."""
    import ray
    from ray._private.state import available_resources_per_node

    return read(ray.nodes(), available_resources_per_node())


def read(nodes: list[dict[str, Any]], available: Mapping[str, Mapping[str, float]]) -> Inventory:
    """Make an inventory of what Ray says of its nodes and of what they have available."""
    alive = [node for node in nodes if node["Alive"]]
    called = names(alive)
    found = [_node(node, called[node["NodeID"]], available.get(node["NodeID"], {})) for node in alive]
    return Inventory(nodes=tuple(sorted(found, key=lambda node: node.name)))


def names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each node, by its id. Several raylets on one host, as in tests, would have the same."""
    count = Counter(_name(node) for node in nodes)
    called = {node["NodeID"]: _name(node) for node in nodes}
    return {id: name if count[name] == 1 else f"{name}#{id[:6]}" for id, name in called.items()}


def _name(node: Mapping[str, Any]) -> str:
    """The name the node was given, or else its host's; Ray calls nodes without a name by their address."""
    given = node.get("NodeName")
    if given and given != node["NodeManagerAddress"]:
        return str(given)
    return str(node["NodeManagerHostname"])


def _node(node: Mapping[str, Any], name: str, available: Mapping[str, float]) -> Node:
    has: Mapping[str, float] = node["Resources"]
    labels = {key: str(value) for key, value in (node.get("Labels") or {}).items()}
    kind = gpu_kind(has, labels)
    gpu = Gpu(name=kind, memory=0, capability=OLD_GPUS.get(kind, (0, 0)))
    return Node(
        name=name,
        id=node["NodeID"],
        cpus=has.get("CPU", 0.0),
        memory=int(has.get("memory", 0)),
        gpus=(gpu,) * int(has.get("GPU", 0)),
        fast_bf16=None,
        labels=labels,
        free=Free(
            cpus=available.get("CPU", 0.0), gpus=available.get("GPU", 0.0), memory=int(available.get("memory", 0))
        ),
    )


def gpu_kind(resources: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """The name Ray has for a node's GPUs."""
    kinds = (key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR) and "_group_" not in key)
    return next(kinds, "") or labels.get("ray.io/accelerator-type", "") or "GPU"


def to_json(inventory: Inventory) -> str:
    """For another process."""
    return json.dumps({"nodes": [dataclasses.asdict(node) for node in inventory.nodes]})


def from_data(data: Mapping[str, Any]) -> Inventory:
    """What `to_json` wrote."""
    nodes = []
    for fields in data["nodes"]:
        gpus = (Gpu(**{**gpu, "capability": tuple(gpu["capability"])}) for gpu in fields["gpus"])
        nodes.append(Node(**{**fields, "gpus": tuple(gpus), "free": Free(**fields["free"])}))
    return Inventory(nodes=tuple(nodes))


def main(address: str) -> int:
    """Print the nodes of the cluster at an address."""
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(json.dumps({"error": lines[0].strip().rstrip(".")}))
        return 1
    print(to_json(live()))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
