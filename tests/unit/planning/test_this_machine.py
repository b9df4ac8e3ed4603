"""Reading what this machine holds, from the texts that the system gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.nodes import inventory
from orchestrator.config.schema import Cluster, JobSpec, LauncherName

LISTING = """\
0, GPU-aaaa1111, NVIDIA A100-SXM4-80GB, 81920, 8.0
1, GPU-bbbb2222, Tesla V100, 32768, 7.0
"""


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], 8),
        (["max 100000"], 8),
        (["200000 100000"], 2),
        (["150000 100000"], 2),
        (["50000 100000"], 1),
        (["max 100000", "300000 100000\n", "400000 100000"], 3),
        (["1600000 100000"], 8),
        (["", "nonsense"], 8),
    ],
)
def test_cpus_within_cgroup_limits(limits: list[str], expected: int) -> None:
    assert inventory.allowed_cpus(8, limits) == expected


def test_memory_within_cgroup_limits() -> None:
    assert inventory.allowed_memory(100, []) == 100
    assert inventory.allowed_memory(100, ["max\n", "50\n", "", "70"]) == 50


def test_cgroup_folders_go_up_to_the_root() -> None:
    root = Path("/sys/fs/cgroup")
    assert inventory.cgroup_folders("0::/a/b\n", root) == [root / "a/b", root / "a", root]
    assert inventory.cgroup_folders("0::/\n", root) == [root]
    assert inventory.cgroup_folders("4:memory:/x\n", root) == [root]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA A100-SXM4-80GB", "Tesla V100"]),
        ("1", ["Tesla V100"]),
        ("1,0", ["Tesla V100", "NVIDIA A100-SXM4-80GB"]),
        ("GPU-bbbb", ["Tesla V100"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["NVIDIA A100-SXM4-80GB"]),
    ],
)
def test_gpus_that_may_be_seen(visible: str | None, names: list[str]) -> None:
    assert [gpu.name for gpu in inventory.visible_gpus(LISTING, visible)] == names


def test_gpu_numbers() -> None:
    gpu = inventory.visible_gpus(LISTING, "0")[0]
    assert (gpu.memory, gpu.capability) == (80 << 30, (8, 0))
    assert inventory.visible_gpus("0, GPU-x, Old, [N/A], [N/A]\n", None)[0].capability == (0, 0)
    assert inventory.visible_gpus("NVIDIA-SMI has failed\n", None) == ()


@pytest.mark.parametrize(
    ("script", "expected"), [("echo listing", "listing\n"), ("echo broken; exit 9", ""), ("exec sleep 30", "")]
)
def test_nvidia_smi_that_fails_or_hangs_means_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(inventory, "NVIDIA_SMI_TIMEOUT_S", 0.5)
    assert inventory.nvidia_smi() == expected


def test_bf16_by_cpu_flags() -> None:
    assert inventory.has_fast_bf16("model name : x\nflags\t\t: fpu amx_bf16 sse\n")
    assert inventory.has_fast_bf16("flags : avx512_bf16")
    assert not inventory.has_fast_bf16("flags : fpu avx512f")
    assert not inventory.has_fast_bf16("")


def test_file_system_is_that_of_the_innermost_mount() -> None:
    mounts = [("/", "ext4"), ("/home", "nfs4"), ("/home/me/scratch", "xfs"), ("/data", "ext4"), ("/data", "lustre")]
    kinds = {
        path: inventory.filesystem_type(path, mounts)
        for path in ("/a", "/home/me", "/home/me/scratch/x", "/homes", "/data")
    }
    assert kinds == {"/a": "ext4", "/home/me": "nfs4", "/home/me/scratch/x": "xfs", "/homes": "ext4", "/data": "lustre"}
    assert "nfs4" in inventory.SHARED_FILESYSTEMS
    assert not inventory.is_shared_filesystem("/proc")


def test_this_machine_is_known() -> None:
    found = inventory.this_machine()
    assert found.known
    assert found.cpus >= 1
    assert found.nodes[0].memory > 0
    assert inventory.versions()["python"].startswith("3.")


def test_another_cluster_is_not_known_where_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = inventory.for_spec(JobSpec(cluster=Cluster(address="head:6379")))
    assert (found.known, found.note) == (False, "Ray is not installed here")
    assert inventory.for_spec(JobSpec()).known
    assert inventory.for_spec(JobSpec(cluster=Cluster(launcher=LauncherName.torchrun))).known
