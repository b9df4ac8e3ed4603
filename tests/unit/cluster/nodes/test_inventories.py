"""Inventories read from a cluster.yaml and from what Ray says, without a cluster."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.main import main
from orchestrator.cluster.nodes import inventory, ray_nodes
from orchestrator.cluster.nodes.cluster_file import EXAMPLE, of_file
from orchestrator.errors import ConfigError, MachineError
from orchestrator.plans.placement.inventory import Free

ROOT = Path(__file__).parents[4]
CLOUD = {
    "cluster_name": "cloud",
    "provider": {"type": "aws"},
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "node_config": {}},
        "gpu": {
            "resources": {"CPU": 32, "GPU": 2, "memory": 1 << 30, "accelerator_type:V100": 1},
            "node_config": {},
            "labels": {"zone": "a"},
            "min_workers": 1,
            "max_workers": 2,
        },
    },
}
LOCAL = {"cluster_name": "own", "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}}
HAS = {"CPU": 16, "GPU": 1, "memory": "64GiB", "accelerator_type:H100": 1}


def write(folder: Path, config: object) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def local(**more: Any) -> dict[str, Any]:
    return {**LOCAL, "provider": {**LOCAL["provider"], **more}}  # type: ignore[dict-item]


def test_node_types_give_as_many_nodes_as_there_may_be(tmp_path: Path) -> None:
    nodes = of_file(write(tmp_path, CLOUD)).nodes
    assert [(node.name, node.cpus, node.gpu_kind, len(node.gpus)) for node in nodes] == [
        ("head-head", 4, "", 0),
        ("gpu-1", 32, "V100", 2),
        ("gpu-2", 32, "V100", 2),
    ]
    assert (nodes[1].labels, nodes[1].memory, nodes[1].gpus[0].capability) == ({"zone": "a"}, 1 << 30, (7, 0))


def test_machines_of_ones_own(tmp_path: Path) -> None:
    found = of_file(write(tmp_path, local(node_resources={"*": {"CPU": 8}, "10.0.0.2": HAS})))
    assert [(node.name, node.cpus, node.gpu_kind) for node in found.nodes] == [
        ("10.0.0.1", 8, ""),
        ("10.0.0.2", 16, "H100"),
    ]
    assert found.nodes[1].memory == 64 << 30


def test_machines_that_nobody_described_are_not_known(tmp_path: Path) -> None:
    found = of_file(write(tmp_path, LOCAL))
    assert not found.known
    assert "does not say what 10.0.0.1 has" in found.note
    assert not of_file(ROOT / "cluster.yaml").known


def test_the_example_is_right(tmp_path: Path) -> None:
    told = yaml.safe_load(EXAMPLE)["provider"]
    assert of_file(write(tmp_path, local(**told))).nodes[1].gpu_kind == "H100"


@pytest.mark.parametrize("config", [CLOUD, local(node_resources={"*": HAS})])
def test_ray_takes_these_files_too(config: dict[str, Any]) -> None:
    jsonschema, ray = pytest.importorskip("jsonschema"), importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("Ray is not installed")
    schema = Path(ray.origin).parent / "autoscaler/ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], "the file is not a mapping"),
        ({}, "provider is not a mapping"),
        ({**CLOUD, "head_node_type": "other"}, "head_node_type=other is not among available_node_types"),
        ({**CLOUD, "available_node_types": None}, "available_node_types is not a mapping"),
        ({**CLOUD, "max_workers": "many"}, "max_workers=many is not a number"),
        ({**CLOUD, "available_node_types": {"head": {}}}, "available_node_types.head does not say what its nodes have"),
        (
            {**CLOUD, "available_node_types": {"head": {"resources": {"CPU": "x"}}}},
            "CPU of head-head=x is not a number",
        ),
        (local(head_ip=None, worker_ips=[]), "provider names no machines"),
        (local(node_resources={"10.9.9.9": {}}), "names 10.9.9.9, which is no machine of the cluster"),
        (local(node_resources={"*": {"memory": "lots"}}), "is not an amount of memory"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_file(write(tmp_path, config))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        of_file(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not YAML"):
        of_file(broken)


# --- on the command line ---------------------------------------------------------------------------------------------


def run(*args: str) -> int:
    return main(["plan", "job=digits", "tracking=off", "storage.shared=true", *args])


def test_plan_for_a_cluster_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path, CLOUD))
    assert run("cluster=existing", "cluster.workers=4", "cluster.nodes=2", "batch=64", "--cluster", file) == 0
    assert "2 workers on gpu-1 (V100), 2 on gpu-2 (V100)" in capsys.readouterr().out
    assert run("cluster=existing", "cluster.workers=4", "batch=64", "--cluster", file) == 3
    told = capsys.readouterr().err
    assert "4 workers would not fit on 1 node: at most 2 would." in told
    assert "Set cluster.workers=2 or cluster.nodes=2" in told
    assert run("--cluster", file) == 2
    assert "cluster.address=null trains on this machine" in capsys.readouterr().err


# --- what Ray says ---------------------------------------------------------------------------------------------------


def ray_node(number: int, **more: Any) -> dict[str, Any]:
    address = f"10.0.0.{number}"
    return {
        "NodeID": f"{number:056d}",
        "Alive": True,
        "NodeManagerAddress": address,
        "NodeManagerHostname": "host",
        "NodeName": address,
        "Resources": {"CPU": 4.0, "memory": 8.0},
        "Labels": {},
        **more,
    }


def test_nodes_of_ray() -> None:
    gpus = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:T4_group_0_ab": 1.0, "accelerator_type:T4": 1.0}
    said = [
        ray_node(1, NodeName="big", Resources=gpus, Labels={"zone": "a"}),
        ray_node(2),
        ray_node(3, Alive=False),
        ray_node(4, NodeManagerHostname="other"),
    ]
    found = ray_nodes.read(said, {f"{1:056d}": {"CPU": 1.0, "memory": 5.0}})
    assert [node.name for node in found.nodes] == ["big", "host", "other"]
    assert found.nodes[0].free == Free(cpus=1, gpus=0, memory=5)
    assert (found.nodes[0].gpu_kind, found.nodes[0].gpus[0].capability) == ("T4", (7, 5))
    assert ray_nodes.from_data(json.loads(ray_nodes.to_json(found))) == found


def test_nodes_of_the_same_name_can_be_told_apart() -> None:
    found = ray_nodes.read([ray_node(1, NodeID="aaaaaaaa"), ray_node(2, NodeID="bbbbbbbb")], {})
    assert [node.name for node in found.nodes] == ["host#aaaaaa", "host#bbbbbb"]


def test_a_dead_address_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(MachineError, match=r"cluster.address=127.0.0.1:1 cannot be reached: Connection refused"):
        inventory.of_ray("127.0.0.1:1")
    with pytest.raises(MachineError, match=r"cluster.address=somewhere is not an address of Ray"):
        inventory.of_ray("somewhere")
    with pytest.raises(MachineError, match="cannot be reached"):
        inventory.of_ray("127.0.0.1:99999")
    assert time.monotonic() - began < 5


def test_somebody_else_who_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "RAY_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(MachineError, match="did not say what it has within 1 s"):
            inventory.of_ray(address)


def test_a_child_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nRuntimeError: version mismatch\n")
    monkeypatch.setattr(inventory, "check_answers", lambda address: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: dead)
    with pytest.raises(MachineError, match="cannot be reached: RuntimeError: version mismatch"):
        inventory.of_ray("head:6379")
