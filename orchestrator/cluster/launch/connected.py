"""The cluster of a cluster.yaml, connected to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.launch import cluster_spec
from orchestrator.cluster.launch.cluster import Cluster


@contextmanager
def connected(file: str) -> Iterator[Cluster]:
    """The cluster in a file, with connections to its machines for the time of a block."""
    spec = cluster_spec.read(Path(file))
    with Cluster.connections(spec) as connections:
        yield Cluster(spec, connections)
