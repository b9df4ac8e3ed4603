"""A model measured for a plan: by this machine, or by a node of the cluster when there is no torch here.

Run as `python -m orchestrator.planning.measuring ADDRESS` it has the cluster do it, as its input says, and the last
line of its output is the answer: a process of its own, because joining Ray starts threads and takes over signals.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cluster.node.address import HINT, check_answers
from orchestrator.config.spec import spec_from_dict
from orchestrator.errors import MachineError, OrchestratorError, TargetError
from orchestrator.foundation.environment import TELEMETRY_OFF
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.profile import profile_files

CLUSTER_TIMEOUT_S = 180.0
LARGE = 5 * 2**20
"""Bytes from which a file of the project stays behind: code and settings travel, data does not."""
STAYS = frozenset((".git", ".venv", "venv", "node_modules", "runs", "dist", "build", "__pycache__"))
"""Folders that stay behind."""


def here(resolved: dict[str, Any], sizes: list[int], project: Path) -> ModelProfile:
    """Measure with the torch of this machine: a config's model, for micro-batches of these sizes."""
    from orchestrator.config.targets import targets
    from orchestrator.data import build
    from orchestrator.profile import cache
    from orchestrator.runtime.worker.engine import prepare

    task = targets.bind(resolved, project=project).task()
    with build.using(build.Preview()):
        return cache.profile(task, spec_from_dict(resolved), sizes, prepare, project)


def on_cluster(address: str, resolved: dict[str, Any], sizes: list[int], project: Path) -> ModelProfile:
    """Let the Ray cluster at an address measure, and check the code that the config names on the way."""
    job = resolved["job"]
    parts = {
        "task": job["task"],
        "checkpointing": job.get("activation_checkpointing"),
        **{key: resolved.get(key) for key in ("model", "data", "precision")},
        "sizes": sizes,
        "at": address,
        "orchestrator": importlib.metadata.version("orchestrator"),
    }
    name = profile_files.fingerprint(parts, _code(project))
    known = profile_files.read(name)
    if known is None:
        known = _asked(address, {"resolved": resolved, "sizes": sizes, "project": str(project)})
        profile_files.remember(name, known)
    return known


def _code(project: Path) -> Iterator[Path]:
    return (file for file in _files(project) if file.suffix == ".py")


def _files(project: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(project):
        folders[:] = sorted(set(folders) - STAYS)
        yield from (Path(root) / name for name in names)


def _asked(address: str, request: dict[str, Any]) -> ModelProfile:
    check_answers(address)
    command = [sys.executable, "-m", "orchestrator.planning.measuring", address]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=CLUSTER_TIMEOUT_S,
            check=False,
            env={**os.environ, **TELEMETRY_OFF},
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"The cluster at cluster.address={address} did not measure the model within {CLUSTER_TIMEOUT_S:g} s.",
            "Look at it with: ray status. Or plan where torch is installed.",
        ) from error
    try:
        answer = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except json.JSONDecodeError:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        answer = {"error": told[-1], "hint": HINT}
    if "profile" in answer:
        return ModelProfile.from_dict(answer["profile"])
    if answer.get("wrong"):
        raise TargetError(answer["error"], answer["hint"])
    raise MachineError(
        f"The cluster at cluster.address={address} cannot measure the model: {answer['error'].rstrip('.')}.",
        answer["hint"],
    )


# --- in the process that joins the cluster, and on a node of it ------------------------------------------------------


def main(address: str) -> int:
    """Have a node of the cluster measure what the input asks for."""
    from orchestrator.planning import measuring

    request = json.load(sys.stdin)
    answer = measuring.through_ray(address, request)
    print(json.dumps(answer))
    return 0 if "profile" in answer else 1


def through_ray(address: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a node; an error with the way out where there is none."""
    import ray

    project = Path(request["project"])
    large = [str(file.relative_to(project)) for file in _files(project) if file.stat().st_size > LARGE]
    travels = {"working_dir": str(project), "excludes": [*sorted(STAYS), *large]}
    try:
        ray.init(address=address, runtime_env=travels, logging_level=logging.ERROR, log_to_driver=False)
        # No CPU: a few seconds of work do not have to wait for others to let go of theirs.
        measure = ray.remote(num_cpus=0, max_retries=0)(on_node)
        answer: dict[str, Any] = ray.get(measure.remote(request["resolved"], request["sizes"]))
    except Exception as error:  # noqa: BLE001 - the process' boundary: Ray raises what it likes
        traceback.print_exc()
        told = next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), type(error).__name__)
        return {"error": told.strip(), "hint": f"{HINT} Its nodes need orchestrator and torch, as they do to train."}
    finally:
        ray.shutdown()
    return answer


def on_node(resolved: dict[str, Any], sizes: list[int]) -> dict[str, Any]:
    """Measure, in the copy of the project that Ray brought; what is wrong with the person's code is an answer too."""
    try:
        return {"profile": here(resolved, sizes, Path.cwd()).to_dict()}
    except OrchestratorError as error:
        return {"wrong": True, "error": error.message, "hint": error.hint}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
