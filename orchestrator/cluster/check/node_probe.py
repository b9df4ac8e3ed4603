"""What `cluster check` does on each node: tell facts, listen to the others, take part in an all-reduce.

Sent to the nodes as it is (see check_ray), so that it also works where our own code is missing or of another version:
it imports only what is sent along, the standard library, and inside functions what a node may lack.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.cluster.check import link
from orchestrator.cluster.nodes import network

PACKAGES = ("torch", "ray", "deepspeed", "numpy", "orchestrator")
OWN = "orchestrator"
MISSING, ANOTHER = "missing", "another folder"
"""What can be wrong with a storage folder, beside what the system says of it."""
NVIDIA_SMI_S = 20.0
MEBIBYTE = 2**20
REDUCED = 16 * MEBIBYTE
"""Bytes that the all-reduce sums up: large enough for bandwidth to count, small enough for slow networks."""


class Probe:
    """One of them lives on each node for the time of the check."""

    def __init__(self, key: bytes) -> None:
        import ray

        self._address: str = ray.util.get_node_ip_address()
        self._key = key

    def facts(self, data: str | None, storage: str | None) -> dict[str, Any]:
        """What this node has."""
        interface = network.interface_of(self._address)
        # Behind address translation nobody can listen at the node's address itself.
        listener = link.Listener(self._address if interface else "", self._key)
        return {
            "address": self._address,
            "port": listener.port,
            "interface": interface,
            "versions": versions(),
            "disks": disks(storage),
            "data": attempted(lambda: look_at(data)) if data else None,
        }

    def now(self) -> float:
        """What the clock of this node says."""
        return time.time()

    def reach(self, address: str, port: int) -> dict[str, Any]:
        """How well this node reaches another."""
        return link.measure(address, port, self._key)

    def free_port(self) -> int:
        """A port of this node that nobody listens on."""
        with socket.create_server(("", 0)) as probe:
            port: int = probe.getsockname()[1]
            return port

    def all_reduce(self, rank: int, world: int, meeting: str, timeout: float) -> dict[str, Any]:
        """Sum a tensor over all nodes, as workers do with gradients."""
        try:
            return {"seconds": all_reduce(self._address, rank, world, meeting, timeout)}
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            return {"failed": reason(error)}

    def open_storage(self, storage: str, mark: str) -> dict[str, Any]:
        """Make the storage folder if it is missing, and leave a mark in it for the other nodes."""
        return attempted(lambda: open_storage(storage, mark))

    def meet_in_storage(self, storage: str, first: str, mark: str) -> dict[str, Any]:
        """Look for the first node's mark in the storage, and leave one of this node's own."""
        return attempted(lambda: meet_in_storage(storage, first, mark))

    def unseen(self, storage: str, marks: list[str]) -> list[str]:
        """Those of the marks that this node does not find."""
        return [mark for mark in marks if attempted(partial(read_mark, storage, mark))]

    def remove(self, storage: str, marks: list[str], made: list[str]) -> None:
        """Take the marks away, and the folders that the check made."""
        for mark in marks:
            attempted(partial(remove_mark, storage, mark))
        for folder in made:
            attempted(Path(folder).rmdir)


def attempted(action: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What an action found, or why it failed."""
    try:
        return action() or {}
    except Exception as error:  # noqa: BLE001  each store of fsspec has exceptions of its own; they end as a finding
        return {"failed": reason(error)}


def reason(error: BaseException) -> str:
    """Why something failed, in a few words."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
    told = getattr(error, "strerror", None) or next(iter(lines), type(error).__name__)
    return str(told).rstrip(".")


# --- versions --------------------------------------------------------------------------------------------------------
def versions() -> dict[str, str]:
    """Versions that have to be the same everywhere; what is not installed is left out."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    code = fingerprint()
    if code:
        found["our code"] = code
    driver = nvidia_driver()
    if driver:
        found["NVIDIA driver"] = driver
    return found


def fingerprint() -> str:
    """A short digest of our own source files as this node has them; empty where they are missing."""
    spec = importlib.util.find_spec(OWN)
    if spec is None or not spec.submodule_search_locations:
        return ""
    folder = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:10]


def nvidia_driver() -> str:
    """The version of the GPUs' driver; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "does not answer"
    return next(iter(done.stdout.split()), "")


# --- files -----------------------------------------------------------------------------------------------------------
def disks(storage: str | None) -> list[dict[str, Any]]:
    """Room where Ray keeps its session, and in the storage."""
    import ray

    session = ray._private.worker._global_node.get_temp_dir_path()
    places = {"Ray's temporary folder": session}
    if storage and not is_url(storage):
        places["storage"] = storage
    found = []
    for name, place in places.items():
        with contextlib.suppress(OSError):  # that it is missing is told by the marks
            usage = shutil.disk_usage(place)
            found.append({"name": name, "path": place, "free": usage.free, "total": usage.total})
    return found


def is_url(path: str) -> bool:
    """Whether a path names an object store."""
    return "://" in path


def look_at(data: str) -> dict[str, Any]:
    """Read a little of the data, and tell by how much nodes can be compared: entries of a folder, bytes of a file."""
    if is_url(data):
        fs, path = _filesystem(data)
        return {"entries": len(fs.ls(path))} if fs.isdir(path) else {"bytes": fs.size(path)}
    if Path(data).is_dir():
        return {"entries": len(os.listdir(data))}  # noqa: PTH208  a folder of millions of files is not to be made Paths
    with Path(data).open("rb") as file:
        file.read(1)
        return {"bytes": os.fstat(file.fileno()).st_size}


def open_storage(storage: str, mark: str) -> dict[str, Any]:
    """The folders that were missing and are made now, innermost first; with the mark, it is a storage to be seen."""
    if is_url(storage):
        leave_mark(storage, mark)
        return {"made": []}
    folder = Path(storage)
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        leave_mark(storage, mark)
    except OSError:
        for part in missing:
            part.rmdir()
        raise
    return {"made": [str(part) for part in missing]}


def meet_in_storage(storage: str, first: str, mark: str) -> dict[str, Any]:
    """Whether the storage is there, is the first node's, and can be written."""
    if not is_url(storage) and not Path(storage).is_dir():
        return {"failed": MISSING}
    try:
        read_mark(storage, first)
    except FileNotFoundError:
        return {"failed": ANOTHER}
    leave_mark(storage, mark)
    return {}


def leave_mark(storage: str, mark: str) -> None:
    """Write a small file."""
    fs, folder = _filesystem(storage)
    fs.pipe_file(f"{folder}/{mark}", mark.encode())


def read_mark(storage: str, mark: str) -> None:
    """Read another node's file."""
    fs, folder = _filesystem(storage)
    fs.cat_file(f"{folder}/{mark}")


def remove_mark(storage: str, mark: str) -> None:
    """Remove a mark."""
    fs, folder = _filesystem(storage)
    fs.rm_file(f"{folder}/{mark}")


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    fs, inside = fsspec.core.url_to_fs(path)
    return fs, inside.rstrip("/")


# --- all-reduce ------------------------------------------------------------------------------------------------------
def all_reduce(address: str, rank: int, world: int, meeting: str, timeout: float) -> float:
    """Seconds that a sum of REDUCED bytes takes over gloo, with the interface that workers use."""
    from datetime import timedelta

    network.set_interface(os.environ, network.interface_of(address))
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
    )
    try:
        times = []
        for _ in range(3):
            values = torch.full((REDUCED // 4,), float(rank + 1))
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - began)
            if not bool((values == world * (world + 1) / 2).all()):
                raise ValueError("the sum was wrong")
        return min(times)
    finally:
        dist.destroy_process_group()
