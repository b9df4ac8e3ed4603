"""One Ray cluster and one blank MLflow store for all tests of a session: making one takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.foundation.environment import quiet_telemetry
from orchestrator.runtime.launchers import torchrun
from orchestrator.tracking.store import prepare, resolve_uri
from tests.integration.nursery import Nursery
from tests.integration.tracking.recording import MlflowService, free_port, mlflow_server, running

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


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def forked_workers(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of `cluster=torchrun` begin with everything imported: for tests of what they compute."""
    monkeypatch.setattr(torchrun, "start_child", nursery.start_child)


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow and our client settle some of their settings in the environment: not in that of other tests."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared store to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("blank")
    prepare(resolve_uri(None, str(folder)), 15)
    return folder / "mlflow"


@pytest.fixture
def storage(tmp_path: Path, blank_store: Path) -> Path:
    """A storage folder with an MLflow store of its own."""
    import shutil

    shutil.copytree(blank_store, tmp_path / "runs" / "mlflow")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def mlflow_service(tmp_path_factory: pytest.TempPathFactory, blank_store: Path) -> Iterator[MlflowService]:
    """MLflow's own server, on SQLite."""
    import shutil

    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(blank_store, folder / "mlflow")
    port = free_port()
    with running(mlflow_server(folder / "mlflow/mlflow.db", port, folder / "served"), port, "/health", folder) as pid:
        yield MlflowService(psutil.Process(pid), port)
