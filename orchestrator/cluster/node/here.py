"""The cluster that this machine is part of, as the commands that follow `up` find it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from orchestrator.cluster.node import home, ray_service, services
from orchestrator.cluster.node.home import Home, Record
from orchestrator.errors import ConfigError

CHOICE = "ORCHESTRATOR_CLUSTER"
"""Names the cluster that is meant where a machine is part of several; set for the commands of `cluster exec`."""


def found(env: MutableMapping[str, str] = os.environ) -> Record | None:
    """The cluster whose Ray runs here; None when there is none, or a person means another Ray."""
    chosen = env.get(CHOICE)
    if env.get("RAY_ADDRESS") and not chosen:
        return None
    places = [home.of(chosen)] if chosen else home.known()
    running = [(place, record) for place in places if (record := place.read()) and _runs(place)]
    if not running:
        return None
    if len(running) > 1:
        names = [record.name for _, record in running]
        raise ConfigError(
            f"This machine is part of several clusters: {', '.join(names)}.", f"Say which is meant: {CHOICE}={names[0]}"
        )
    return running[0][1]


def unused(address: str | None, env: Mapping[str, str]) -> str:
    """A word to a person who trains on a Ray of its own beside the one that is up; empty where there is none."""
    if address is not None or not env.get(CHOICE):
        return ""
    return f"The cluster {env[CHOICE]} is up here, and this run starts a Ray of its own. To use it: cluster=existing"


def _runs(place: Home) -> bool:
    return services.lives(place, ray_service.NAME)


def adopt(env: MutableMapping[str, str]) -> Record | None:
    """Give an environment what it takes to use the cluster here. What a person has set themselves stays."""
    record = found(env)
    if record is None:
        return None
    own_server = bool(env.get("MLFLOW_TRACKING_URI"))
    for name, value in record.environment.items():
        if not (own_server and "MLFLOW" in name):
            env[name] = value
    env[CHOICE] = record.name
    return record
