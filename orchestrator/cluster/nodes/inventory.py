"""What this machine or a live Ray cluster holds, found without importing torch or Ray, so that `plan` stays quick."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from orchestrator.cluster.doctor import async_io
from orchestrator.cluster.node.address import HINT, check_answers
from orchestrator.cluster.nodes import ray_nodes
from orchestrator.config.schema import JobSpec, LauncherName
from orchestrator.errors import MachineError
from orchestrator.foundation.environment import TELEMETRY_OFF
from orchestrator.plans.placement.inventory import Gpu, Inventory, Node

PACKAGES = ("orchestrator", "torch", "deepspeed", "ray", "mlflow", "hydra-core")
# fmt: off
SHARED_FILESYSTEMS = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs",
    "pvfs2", "smb3", "smbfs", "wekafs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs",
    "fuse.s3fs", "fuse.sshfs",
))
# fmt: on
FAST_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
NVIDIA_SMI = ("--query-gpu=index,uuid,name,memory.total,compute_cap", "--format=csv,noheader,nounits")
NVIDIA_SMI_TIMEOUT_S = 10.0
RAY_TIMEOUT_S = 60.0
CGROUP = Path("/sys/fs/cgroup")
MIB = 1024**2


def for_spec(spec: JobSpec) -> Inventory:
    """What there is to run a spec on: this machine, or the live nodes of the cluster it names."""
    if spec.cluster.address is None or spec.cluster.launcher is LauncherName.torchrun:
        return this_machine()
    return of_ray(spec.cluster.address)


def of_ray(address: str) -> Inventory:
    """The live nodes of the Ray cluster at an address; not known where Ray is not installed to ask with."""
    if importlib.util.find_spec("ray") is None:
        return Inventory(known=False, note="Ray is not installed here")
    check_answers(address)
    command = [sys.executable, "-m", "orchestrator.cluster.nodes.ray_nodes", address]
    environment = {**os.environ, **TELEMETRY_OFF}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RAY_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"Ray at cluster.address={address} did not say what it has within {RAY_TIMEOUT_S:g} s.",
            "Look at it with: ray status. Is this host one of its nodes?",
        ) from error
    try:
        answer = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except json.JSONDecodeError:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        answer = {"error": told[-1]}
    if "nodes" not in answer:
        told = answer["error"].partition(". ")[0].rstrip(".")
        raise MachineError(f"Ray at cluster.address={address} cannot be reached: {told}.", HINT)
    return ray_nodes.from_data(answer)


def this_machine() -> Inventory:
    """The machine we are on, as far as this process may use it: its cgroup's share, its visible GPUs."""
    limits = cgroup_folders(_read(Path("/proc/self/cgroup")))
    node = Node(
        name=socket.gethostname(),
        cpus=allowed_cpus(len(os.sched_getaffinity(0)), [_read(folder / "cpu.max") for folder in limits]),
        memory=allowed_memory(psutil.virtual_memory().total, [_read(folder / "memory.max") for folder in limits]),
        gpus=visible_gpus(nvidia_smi(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        fast_bf16=has_fast_bf16(_read(Path("/proc/cpuinfo"))),
        nvme_lacks=async_io.lacking(),
    )
    return Inventory(nodes=(node,))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's outcome depends on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def is_shared_filesystem(path: str) -> bool:
    """Whether a folder lies on a network file system, by the type of the mount it is on."""
    mounts = [(partition.mountpoint, partition.fstype) for partition in psutil.disk_partitions(all=True)]
    return filesystem_type(str(Path(path).expanduser().resolve()), mounts) in SHARED_FILESYSTEMS


def filesystem_type(path: str, mounts: list[tuple[str, str]]) -> str:
    """Type of the innermost mount that holds a path; of several at the same point the last one counts."""
    best, kind = "", ""
    for point, fstype in mounts:
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind


# --- CPUs and memory -------------------------------------------------------------------------------------------------


def cgroup_folders(text: str, root: Path = CGROUP) -> list[Path]:
    """Folders of a process' cgroup (version 2) and of all above it: each of them may set a limit."""
    for line in text.splitlines():
        if line.startswith("0::"):
            folder = root / line[3:].strip().lstrip("/")
            return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]
    return [root]


def allowed_cpus(usable: int, cpu_max: list[str]) -> int:
    """CPUs by affinity, less what cgroup limits ('200000 100000', 'max 100000') take; at least 1."""
    allowed = usable
    for text in cpu_max:
        quota, _, period = text.strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)


def allowed_memory(total: int, memory_max: list[str]) -> int:
    """Bytes of memory, less what cgroup limits ('max' or a number) take."""
    return min([total, *(int(text) for text in memory_max if text.strip().isdigit())])


def has_fast_bf16(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo names an instruction set that computes bf16."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return not FAST_BF16_FLAGS.isdisjoint(flags.split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- GPUs ------------------------------------------------------------------------------------------------------------


def nvidia_smi() -> str:
    """What nvidia-smi says about the GPUs; empty when there is none, or it fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *NVIDIA_SMI], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def visible_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs of an nvidia-smi listing that CUDA_VISIBLE_DEVICES (None: not set) lets this process see."""
    by_name: dict[str, Gpu] = {}
    order: list[str] = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5 or not fields[0].isdigit():
            continue
        index, uuid, name, memory, capability = fields
        gpu = Gpu(name=name, memory=_whole(memory) * MIB, capability=_capability(capability))
        by_name[index] = by_name[uuid] = gpu
        order.append(index)
    if visible is None:
        return tuple(by_name[index] for index in order)
    return _chosen(by_name, visible)


def _chosen(by_name: dict[str, Gpu], visible: str) -> tuple[Gpu, ...]:
    """As CUDA reads it: by index or (beginning of a) UUID, ended by the first name that fits none."""
    chosen: list[Gpu] = []
    for name in visible.split(","):
        name = name.strip()
        match = by_name.get(name) or next(
            (gpu for known, gpu in by_name.items() if name.startswith("GPU-") and known.startswith(name)), None
        )
        if match is None:
            break
        chosen.append(match)
    return tuple(chosen)


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
