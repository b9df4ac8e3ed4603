"""A ZeRO-3 run over two hosts that share a folder and nothing else, on a Ray that was started by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts
from tests.cluster.ray_hosts import join, orchestrator, start_head


@pytest.mark.timeout(300)
def test_workers_find_each_other_over_the_network(make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    h1, h2 = make_hosts(2, shared=[tmp_path]).all
    address = start_head(h1)
    join(h2, address)
    # The trap: left alone, gloo listens at the address that the host's name leads to.
    assert h1.run(["getent", "hosts", "h1"]).stdout.split()[0] == "127.0.1.1"

    run = ["train", "job=diabetes", "strategy=zero3", "job.steps=6", "job.epochs=null", "tracking=off", "--id", "both"]
    # Each host has one CPU, so there is one worker on each.
    cluster = [f"cluster.address={address}", "cluster.workers=2", "cluster.nodes=2"]
    done = orchestrator(h1, *run, *cluster, f"storage.path={tmp_path}", "storage.shared=true")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished after 6 steps" in done.stdout
    logs = sorted((tmp_path / "both" / "logs").glob("rank-*.log"))
    assert [log.name for log in logs] == ["rank-0.log", "rank-1.log"]
    for host in (h1, h2):
        assert not [line for line in host.processes().values() if "ray::" in line and "Train" in line]
