"""What this machine has and lacks for training: each check is a small function from a fact to a Finding.

`examine` gathers the facts and asks all checks; nothing here raises for something that is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from orchestrator import paths
from orchestrator.cluster.doctor import probes
from orchestrator.cluster.doctor.probes import Answer
from orchestrator.cluster.node import here
from orchestrator.errors import ConfigError, OrchestratorError

GIB = 2**30
INSTALL = "pip install -c constraints.txt 'orchestrator[all]'"


class Level(Enum):
    """How bad a finding is."""

    ok = "ok"
    warning = "warning"
    """Training works, but something is missing, slow or surprising."""
    problem = "problem"
    """Training will not work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    mend: str = ""
    """What to do about it; empty when all is well."""

    def to_dict(self) -> dict[str, str]:
        """As plain data, ready for JSON."""
        return {"name": self.name, "level": self.level.value, "found": self.found, "mend": self.mend}


def examine(storage: str = "runs", env: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything; takes some seconds, most of them for importing torch and DeepSpeed."""
    answers = probes.ask(tuple(probes.PROBES))
    return [*_packages(answers), *_machine(storage, env), *_network(env), project()]


def _packages(answers: Mapping[str, Answer]) -> list[Finding]:
    return [
        python(sys.version_info[:2]),
        torch(answers["torch"]),
        gpus(answers["torch"], nvidia_driver=shutil.which("nvidia-smi") is not None),
        backends(answers["torch"]),
        deepspeed(answers["deepspeed"]),
        package("Ray", answers["ray"]),
        mlflow(answers["mlflow"]),
        versions(pins()),
    ]


def _machine(storage: str, env: Mapping[str, str]) -> list[Finding]:
    import resource

    import psutil

    where = paths.absolute(storage)
    findings = [storage_writable(where), memory(psutil.virtual_memory().available)]
    if not paths.is_url(where):
        findings.append(disk("storage disk", _existing(Path(where)), 5 * GIB, "Set storage.path to a larger disk."))
    findings += [
        disk("temporary disk", Path(env.get("RAY_TMPDIR", "/tmp")), 2 * GIB, "Set RAY_TMPDIR to a larger disk."),
        shared_memory(Path("/dev/shm")),
        open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        compiler(shutil.which(env.get("CXX", "c++")) or shutil.which("g++")),
        async_io(),
    ]
    return findings


def _network(env: Mapping[str, str]) -> list[Finding]:
    if env.get(here.CHOICE):
        return [hostname(socket.gethostname()), cluster_here(env)]
    return [
        hostname(socket.gethostname()),
        port("Ray's port", 6379, "A Ray head runs here already; set cluster.address=auto to use it."),
        port("MLflow UI's port", 5000, "Start the page on another one: orchestrator ui --port 5001."),
        ray_address(env.get("RAY_ADDRESS")),
    ]


# --- packages --------------------------------------------------------------------------------------------------------
def python(version: tuple[int, int]) -> Finding:
    """Whether this Python is one we are tested with."""
    found = f"{version[0]}.{version[1]} at {sys.executable}"
    if (3, 11) <= version < (3, 13):
        return _ok("Python", found)
    return _problem("Python", found, "Use Python 3.11 or 3.12.")


def package(name: str, answer: Answer) -> Finding:
    """Whether a package that training needs can be imported."""
    if answer.error:
        return _problem(name, f"cannot be imported: {answer.error}", f"Install it: {INSTALL}")
    return _ok(name, answer.facts["version"])


def torch(answer: Answer) -> Finding:
    """Whether torch is there, and what it was built for."""
    if answer.error:
        return package("torch", answer)
    cuda = answer.facts["built_for_cuda"]
    return _ok("torch", f"{answer.facts['version']}, built for {f'CUDA {cuda}' if cuda else 'CPU'}")


def gpus(answer: Answer, *, nvidia_driver: bool) -> Finding:
    """The GPUs torch can use; those it cannot use although there is a driver are worth a warning."""
    if answer.error:
        return _warning("GPUs", "not known without torch", f"Install it: {INSTALL}")
    cards = answer.facts["gpus"]
    if cards:
        return _ok("GPUs", ", ".join(f"{card['name']} ({card['memory'] / GIB:.0f} GiB)" for card in cards))
    if nvidia_driver and not answer.facts["built_for_cuda"]:
        return _warning("GPUs", "a driver, but torch is built for CPU only", "Install a torch built for CUDA.")
    if nvidia_driver:
        return _warning("GPUs", "a driver, but torch sees none", "Look at nvidia-smi and CUDA_VISIBLE_DEVICES.")
    return _ok("GPUs", "none; workers run on CPU")


def backends(answer: Answer) -> Finding:
    """What workers talk through: NCCL between GPUs, gloo between CPUs."""
    if answer.error:
        return _warning("communication", "not known without torch", f"Install it: {INSTALL}")
    nccl = answer.facts["nccl"]
    found = f"gloo: {_yes(answer.facts['gloo'])}, NCCL: {'.'.join(map(str, nccl)) if nccl else 'no'}"
    if answer.facts["gpus"] and not nccl:
        return _problem("communication", found, "Install a torch with NCCL: GPU workers cannot talk without it.")
    if not answer.facts["gpus"] and not answer.facts["gloo"]:
        return _problem("communication", found, "Install a torch with gloo: CPU workers cannot talk without it.")
    return _ok("communication", found)


def deepspeed(answer: Answer) -> Finding:
    """Whether DeepSpeed is there, and starts without compiling anything."""
    if answer.error:
        return package("DeepSpeed", answer)
    found = f"{answer.facts['version']} on {answer.facts['accelerator']}"
    if answer.facts["accelerator"] == "cpu" and not answer.facts["shm_op_replaceable"]:
        mend = "This version may compile an operator on its first start (minutes); use the one in constraints.txt."
        return _warning("DeepSpeed", found, mend)
    return _ok("DeepSpeed", f"{found}, nothing to compile")


def mlflow(answer: Answer) -> Finding:
    """Whether runs can be recorded in MLflow; training works without."""
    if answer.error:
        mend = "Install it (pip install 'orchestrator[tracking]') or train with tracking=off."
        return _warning("MLflow", f"cannot be imported: {answer.error}", mend)
    return _ok("MLflow", answer.facts["version"])


PINNED = ("torch", "deepspeed", "ray", "mlflow", "hydra-core", "omegaconf", "numpy", "click")


def pins(file: Path | None = None) -> dict[str, str]:
    """The versions we are tested with, from constraints.txt."""
    file = file or paths.pins()
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    pairs = (line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): version.strip() for name, version in pairs}


def installed(name: str) -> str | None:
    """The installed version of a distribution, without the build's suffix (+cpu, +cu128)."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(pinned: Mapping[str, str], version_of: Callable[[str], str | None] = installed) -> Finding:
    """Whether what is installed is what we are tested with."""
    if not pinned:
        return _warning("versions", "constraints.txt was not found", "Nothing to do: versions could not be compared.")
    pairs = {name: (version_of(name), pinned[name]) for name in PINNED if name in pinned}
    other = [f"{name} {has} (tested: {pin})" for name, (has, pin) in pairs.items() if has and has != pin]
    if other:
        return _warning("versions", ", ".join(other), f"To get the tested ones: {INSTALL}")
    return _ok("versions", "as in constraints.txt")


# --- machine ---------------------------------------------------------------------------------------------------------
def storage_writable(path: str) -> Finding:
    """Whether runs can be written."""
    from orchestrator.foundation.storage import open_store

    kept = None if paths.is_url(path) else _existing(Path(path))
    try:
        open_store(path).check_writable()
    except OrchestratorError as error:
        return _problem("storage", error.message, error.hint)
    if kept:
        _remove_empty(Path(path), up_to=kept)
    return _ok("storage", f"{path} can be written")


def disk(name: str, path: Path, least: int, mend: str) -> Finding:
    """Free space where `path` lies."""
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return _warning(name, f"{path}: {error.strerror}", mend)
    found = f"{_gib(free)} free at {path}"
    return _ok(name, found) if free >= least else _warning(name, found, mend)


def memory(available: int) -> Finding:
    """Free memory."""
    found = f"{_gib(available)} available"
    if available >= 2 * GIB:
        return _ok("memory", found)
    return _warning("memory", found, "Ray and two small workers take about 2 GiB: end other programs, or take fewer.")


def shared_memory(path: Path) -> Finding:
    """Room for Ray's object store; containers often have 64 MB."""
    try:
        size = shutil.disk_usage(path).total
    except OSError:
        return _warning("shared memory", f"{path} is not there", "Ray falls back to files in /tmp, which is slow.")
    found = f"{_gib(size)} at {path}"
    if size >= 2 * GIB:
        return _ok("shared memory", found)
    return _warning("shared memory", found, "Ray's object store will be slow; in Docker: --shm-size=4g.")


def open_files(limit: int) -> Finding:
    """The limit on open files; Ray opens many."""
    found = "no limit" if limit < 0 else f"at most {limit}"
    if limit < 0 or limit >= 4096:
        return _ok("open files", found)
    return _warning("open files", found, "Raise it for Ray: ulimit -n 65536.")


def compiler(path: str | None) -> Finding:
    """A C++ compiler, which only torch.compile and offloading to NVMe need."""
    if path:
        return _ok("C++ compiler", path)
    return _warning("C++ compiler", "none", "Only job.compile=true needs one: apt-get install g++.")


def async_io() -> Finding:
    """libaio, which only offloading to NVMe needs."""
    from ctypes.util import find_library

    found = find_library("aio")
    return _ok("libaio", found or "none; only offloading to NVMe would need it")


# --- network ---------------------------------------------------------------------------------------------------------
def hostname(name: str) -> Finding:
    """Whether this host's own name has an address; gloo and Ray look it up."""
    try:
        return _ok("host name", f"{name} is {socket.gethostbyname(name)}")
    except OSError as error:
        return _warning("host name", f"{name} has no address ({error})", f"Add a line to /etc/hosts: 127.0.0.1 {name}")


def port(name: str, number: int, mend: str) -> Finding:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", number)) == 0
    return _warning(name, f"{number} is taken", mend) if taken else _ok(name, f"{number} is free")


def cluster_here(env: Mapping[str, str]) -> Finding:
    """The cluster that `orchestrator up` started on this machine, or that this machine is a node of."""
    return _ok("cluster", f"{env[here.CHOICE]} at {env.get('RAY_ADDRESS', '')}; use it with cluster=existing")


def ray_address(value: str | None) -> Finding:
    """RAY_ADDRESS sends every `ray.init` elsewhere, which surprises those who forgot it."""
    if not value:
        return _ok("RAY_ADDRESS", "not set")
    return _warning("RAY_ADDRESS", value, "Ray will join that cluster; unset RAY_ADDRESS to train on this machine.")


# --- project ---------------------------------------------------------------------------------------------------------
def project(folder: Path | None = None) -> Finding:
    """Whether the exports in the project's pyproject.toml can be read."""
    from orchestrator.config.targets import exports

    folder = folder or paths.project_dir()
    try:
        own = exports.of_project(folder)
    except ConfigError as error:
        return _problem("project", error.message, error.hint)
    if not (folder / "pyproject.toml").is_file():
        return _ok("project", f"no pyproject.toml in {folder}; the shipped jobs can be run")
    return _ok("project", f"{len(own)} exports of its own in {folder / 'pyproject.toml'}")


# --- helpers ---------------------------------------------------------------------------------------------------------
def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, level=Level.ok, found=found)


def _warning(name: str, found: str, mend: str) -> Finding:
    return Finding(name=name, level=Level.warning, found=found, mend=mend)


def _problem(name: str, found: str, mend: str) -> Finding:
    return Finding(name=name, level=Level.problem, found=found, mend=mend)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _existing(path: Path) -> Path:
    """The nearest folder on the way to `path` that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _remove_empty(path: Path, up_to: Path) -> None:
    """Take back the folders that the probe made: looking must leave nothing behind."""
    while path != up_to and not any(path.iterdir()):
        path.rmdir()
        path = path.parent


def machine() -> str:
    """One line about the host."""
    return f"{socket.gethostname()}: {platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
