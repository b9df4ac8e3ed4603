"""The nodes that a cluster.yaml describes: the format of Ray's cluster launcher, for planning before they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster.nodes.ray_nodes import ACCELERATOR, OLD_GPUS, gpu_kind
from orchestrator.errors import ConfigError
from orchestrator.foundation.units import optional_bytes
from orchestrator.plans.placement.inventory import Gpu, Inventory, Node

OWN_KEY = "node_resources"
"""Below `provider`, the one place where Ray leaves keys of others alone: what machines that are there already have."""
EVERY = "*"
EXAMPLE = f'provider: {{{OWN_KEY}: {{"{EVERY}": {{CPU: 16, GPU: 4, memory: 64GiB, {ACCELERATOR}H100: 1}}}}}}'


def of_file(file: Path) -> Inventory:
    """Every node there can be, up to max_workers, with nothing of it taken."""
    config = load(file)
    provider = mapping(file, config.get("provider"), "provider")
    if provider.get("type") == "local":
        return _of_machines(file, provider)
    return Inventory(nodes=tuple(_of_types(file, config)))


def load(file: Path) -> dict[str, Any]:
    """What a cluster.yaml says, as plain data."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"{file} cannot be read: {reason}.", "Name a file in the format of Ray's cluster launcher."
        ) from error
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{file} is not YAML: {told}.", "Mend it there.") from error
    return mapping(file, config, "the file")


def mapping(file: Path, value: object, what: str) -> dict[str, Any]:
    """A part of the file that has keys."""
    if isinstance(value, dict):
        return value
    raise ConfigError(
        f"{file}: {what} is not a mapping.", "Compare it with cluster.yaml or Ray's reference of the cluster launcher."
    )


def _of_machines(file: Path, provider: dict[str, Any]) -> Inventory:
    """Machines that are there already: Ray counts what they have when it starts, so only our own key tells it."""
    machines = [str(address) for address in (provider.get("head_ip"), *(provider.get("worker_ips") or ())) if address]
    if not machines:
        raise ConfigError(f"{file}: provider names no machines.", "Set provider.head_ip and provider.worker_ips.")
    told = mapping(file, provider.get(OWN_KEY) or {}, f"provider.{OWN_KEY}")
    stray = sorted(str(name) for name in told.keys() - {*machines, EVERY})
    if stray:
        raise ConfigError(
            f"{file}: provider.{OWN_KEY} names {', '.join(stray)}, which is no machine of the cluster.",
            f"Use {', '.join(machines)}, or {EVERY!r} for all.",
        )
    missing = [address for address in machines if address not in told and EVERY not in told]
    if missing:
        return Inventory(known=False, note=f"{file} does not say what {missing[0]} has; to say it: {EXAMPLE}")
    nodes = []
    for address in machines:
        has = told.get(address, told.get(EVERY))
        nodes.append(_node(address, mapping(file, has, f"provider.{OWN_KEY} of {address}"), {}, file))
    return Inventory(nodes=tuple(nodes))


def _of_types(file: Path, config: dict[str, Any]) -> Iterator[Node]:
    """Nodes that a cloud rents: one head, and of each type as many as there may be.

    The limit on all types together is left to Ray's autoscaler: which of them it spends it on depends on the gang.
    """
    types = mapping(file, config.get("available_node_types"), "available_node_types")
    head = config.get("head_node_type")
    if head not in types:
        raise ConfigError(
            f"{file}: head_node_type={head} is not among available_node_types.", f"Use one of: {', '.join(types)}."
        )
    yield _of_type(file, f"{head}-head", head, types[head])
    # 2 is Ray's own default.
    most = _number(file, config.get("max_workers", 2), "max_workers")
    for name, kind in types.items():
        wanted = mapping(file, kind, f"available_node_types.{name}")
        own = wanted.get("max_workers", 0 if name == head else most)
        for number in range(1, min(most, _number(file, own, f"{name}.max_workers")) + 1):
            yield _of_type(file, f"{name}-{number}", name, wanted)


def _of_type(file: Path, name: str, kind: str, settings: dict[str, Any]) -> Node:
    where = f"available_node_types.{kind}"
    settings = mapping(file, settings, where)
    resources = mapping(file, settings.get("resources") or {}, f"{where}.resources")
    labels = mapping(file, settings.get("labels") or {}, f"{where}.labels")
    if not resources:
        raise ConfigError(
            f"{file}: {where} does not say what its nodes have.", f"Set {where}.resources, as {{CPU: 16, GPU: 4}}."
        )
    return _node(name, resources, {key: str(value) for key, value in labels.items()}, file)


def _node(name: str, has: dict[str, Any], labels: dict[str, str], file: Path) -> Node:
    kind = gpu_kind(has, labels)
    gpu = Gpu(name=kind, memory=0, capability=OLD_GPUS.get(kind, (0, 0)))
    cpus = float(_number(file, has.get("CPU", 0), f"CPU of {name}"))
    gpus = _number(file, has.get("GPU", 0), f"GPU of {name}")
    memory = optional_bytes(f"{file}: memory of {name}", has.get("memory") or None) or 0
    return Node(name=name, cpus=cpus, memory=memory, gpus=(gpu,) * gpus, fast_bf16=None, labels=labels)


def _number(file: Path, value: object, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError(f"{file}: {what}={value} is not a number.", "Give a whole number, 0 or more.")
