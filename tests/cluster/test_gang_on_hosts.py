"""A gang over two hosts: how it meets over the network, and what is said when one of the hosts is gone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.node.ray_service import FAULTS
from tests.cluster.hosts import ROOT, Host, Hosts
from tests.cluster.ray_hosts import ENVIRONMENT, join, start_head

WAY_S = 90


@contextmanager
def gang(host: Host, address: str, root: Path, entry: str, **plan: Any) -> Iterator[subprocess.Popen[str]]:
    """The process that speaks to Ray, with two workers."""
    launch = {"run_id": "probe", "attempt": 1, "root": str(root), "project": str(ROOT), "world_size": 2, "plan": plan}
    launch["entry"] = f"tests.integration.launch.gang_probes:{entry}"
    command = [sys.executable, "-m", "tests.integration.launch.gang_script", address, json.dumps(launch)]
    with host.popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(process.communicate(timeout=WAY_S)[0].splitlines()[-1])
    return answer


@pytest.mark.timeout(400)
def test_a_gang_on_two_hosts(make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    hosts = make_hosts(3, shared=[tmp_path])
    h1, h2, h3 = hosts.all
    address = start_head(h1, env=FAULTS)
    join(h2, address)
    with gang(h1, address, tmp_path, "meet") as process:
        assert told(process)["error"] == ""
    facts = [json.loads((tmp_path / f"met-1-{rank}.json").read_text()) for rank in (0, 1)]
    assert [(fact["node_rank"], fact["local_rank"], fact["sum"]) for fact in facts] == [(0, 0, 3), (1, 0, 3)]
    assert {fact["interface"] for fact in facts} == {"eth0"}
    assert {fact["environment"]["MASTER_ADDR"] for fact in facts} <= {h1.address, h2.address}

    for gone, end in ((h2, hosts.cut), (h3, hosts.crash)):
        if gone is h3:
            join(h3, address)
        for file in tmp_path.glob("here-*"):
            file.unlink()
        with gang(h1, address, tmp_path, "part", rank=0, how="wait", apart=True) as process:
            wait_for(tmp_path / "here-0.json", tmp_path / "here-1.json")
            time.sleep(1)  # they meet once more
            end(gone)
            began = time.monotonic()
            answer = told(process)
        assert len(answer["lost"]) == 1
        assert answer["error"].startswith(f"worker {answer['lost'][0]} on node ")
        assert time.monotonic() - began < 60
        assert not [line for line in h1.processes().values() if "GangMember" in line]


def wait_for(*files: Path) -> None:
    deadline = time.monotonic() + WAY_S
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
