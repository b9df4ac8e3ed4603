"""One Ray cluster for all tests of a session: starting one takes seconds, and they do not disturb each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from orchestrator.environment import quiet_telemetry

quiet_telemetry(os.environ)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "include_dashboard": False, "object_store_memory": 200 * 2**20},
    )
    yield cluster.address
    cluster.shutdown()
