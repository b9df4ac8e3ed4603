"""Planning against a live Ray cluster of three nodes, and workers that Ray starts where the plan says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.cluster.nodes.inventory import of_ray
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from tests.integration.launch.test_launchers import launch, read, wait_for_end

STORE = 100 * 2**20


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Nodes `head` (1 CPU), `plain` (2 CPUs, zone=b) and `cards` (2 CPUs, 2 GPUs that Ray only believes in, zone=b)."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "node_name": "head"}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": STORE})
    cards = {"num_gpus": 2, "resources": {"accelerator_type:H100": 1}, "node_name": "cards"}
    owns: list[dict[str, Any]] = [{"node_name": "plain"}, cards]
    for own in owns:
        cluster.add_node(num_cpus=2, labels={"zone": "b", "kind": own["node_name"]}, object_store_memory=STORE, **own)
    yield cluster.address
    cluster.shutdown()


@contextmanager
def taken(address: str, **resources: float) -> Iterator[None]:
    """Somebody else uses some of the cluster for the time of a block."""
    code = (
        "import ray, sys, json; address, bundle = sys.argv[1:]\n"
        "ray.init(address=address, log_to_driver=False, logging_level='ERROR')\n"
        "ray.get(ray.util.placement_group([json.loads(bundle)]).ready())\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, address, json.dumps(resources)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        yield
        assert other.stdin
        other.stdin.close()


def plan(capsys: pytest.CaptureFixture[str], address: str, *overrides: str) -> tuple[int, dict[str, Any]]:
    given = ["job=digits", "batch=64", "tracking=off", "storage.shared=true", f"cluster.address={address}"]
    code = main(["plan", *given, *overrides, "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def test_live_inventory(address: str) -> None:
    found = of_ray(address)
    assert [(node.name, node.cpus, len(node.gpus), node.gpu_kind) for node in found.nodes] == [
        ("cards", 2, 2, "H100"),
        ("head", 1, 0, ""),
        ("plain", 2, 0, ""),
    ]
    assert found.nodes[0].labels["zone"] == "b"
    assert found.nodes[0].free == found.nodes[0].all


def test_what_fits_is_placed(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, made = plan(capsys, address, "cluster.workers=2", "cluster.gpu_type=h100")
    assert (code, made["placement"]) == (0, [{"node": "cards", "workers": 2, "gpu": "H100"}])
    assert made["resources"]["gpus"] == 1
    two = ("cluster.workers=2", "cluster.nodes=2", "cluster.placement=spread", "cluster.gpus_per_worker=0")
    code, made = plan(capsys, address, *two, "+cluster.labels.zone=b")
    assert [spot["node"] for spot in made["placement"]] == ["cards", "plain"]


def test_what_others_use_is_waited_for(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with taken(address, GPU=1):
        time.sleep(1)  # Raylets report what they have left about ten times a second.
        code, made = plan(capsys, address, "cluster.workers=2")
    assert code == 0
    assert made["notes"] == [
        "The workers would wait: 2 workers with 1 GPU each need 2 GPUs, and there is 1 free. "
        "At once: cluster.workers=1."
    ]


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (("cluster.workers=4",), "4 workers with 1 GPU each need 4 GPUs, and there are 2.", "Set cluster.workers=2."),
        (
            ("cluster.workers=4", "cluster.gpus_per_worker=0"),
            "4 workers would not fit on 1 node: at most 2 would.",
            "Set cluster.workers=2 or cluster.nodes=2.",
        ),
        (("cluster.gpu_type=A100",), "no node has GPUs of type A100: there are H100.", "Set cluster.gpu_type=H100."),
        (
            ("+cluster.labels.zone=c",),
            "no node has the labels zone=c.",
            "Leave out cluster.labels.zone=c.",
        ),
    ],
)
def test_what_never_fits_is_refused(
    address: str, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str, hint: str
) -> None:
    code, answer = plan(capsys, address, *overrides)
    assert (code, answer["error"]["message"], answer["error"]["hint"].splitlines()[0]) == (3, message, hint)


@pytest.mark.parametrize(
    ("rules", "nodes"),
    [
        ({"nodes": 2, "placement": "spread", "labels": {"zone": "b"}}, {"cards", "plain"}),
        ({"nodes": 2, "placement": "pack", "labels": {"kind": "plain"}}, {"plain"}),
        ({"nodes": 1, "gpu_type": "h100", "labels": {"zone": "b"}}, {"cards"}),
    ],
)
def test_ray_starts_workers_where_the_plan_says(
    address: str, tmp_path: Path, rules: dict[str, Any], nodes: set[str]
) -> None:
    wanted = dataclasses.replace(launch(tmp_path, "tell_node"), plan={"spec": {"cluster": rules}})
    launcher = RayLauncher(address)
    try:
        launcher.start(wanted, WorkerResources(cpus=1, gpus=0, threads=1, memory=2**20))
        assert wait_for_end(launcher).error == ""
    finally:
        launcher.close()
    names = {node.id: node.name for node in of_ray(address).nodes}
    assert {names[str(read(tmp_path, f"node-{rank}.json")["id"])] for rank in range(2)} == nodes
