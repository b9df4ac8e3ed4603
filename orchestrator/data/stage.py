"""The process that prepares a job's data, before its workers start: `python -m orchestrator.data.stage REQUEST.json`.

It is one of its own because it may join Ray, and because what it imports must not stay in the process that waits. It
prints one JSON object a line: {"say": text} as it goes, and at the end {"ready": [...]} or {"error": ...}.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.targets import targets
from orchestrator.data import build
from orchestrator.data.cache import Ready
from orchestrator.data.records import SPLITS
from orchestrator.errors import MachineError, OrchestratorError
from orchestrator.foundation.environment import TELEMETRY_OFF

_OUT = 1
"""Where lines go; libraries that print are led elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be prepared."""

    spec: dict[str, Any]
    project: str
    ray: bool
    """Whether Ray may be used."""
    address: str = ""
    """Ray's; empty: one of our own."""
    package: str = ""
    """Where a submitted project lies in run storage, for the other nodes; empty: `project` is a folder on each."""


def prepare(request: Request, builder: build.Builder) -> list[Ready]:
    """Have a Task make its datasets, and so all that they are made of."""
    task = targets.bind(request.spec, project=Path(request.project)).task()
    with build.using(builder):
        for split in SPLITS:
            task.dataset(split)
    return list({ready.folder: ready for ready in reversed(builder.used)}.values())


def make_builder(request: Request) -> build.Builder:
    """With Ray Data, or alone where the job does without Ray."""
    if not request.ray:
        return build.Builder(_say)
    from orchestrator.data.ray_build import RayBuilder

    return RayBuilder(lambda: _connect(request.address), request.package or request.project, _say)


def _connect(address: str) -> None:
    import ray

    options: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    environment = {**TELEMETRY_OFF, "OMP_NUM_THREADS": "1"}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": environment}, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at cluster.address={address} cannot be reached" if address else "could not be started here"
        raise MachineError(f"Ray {where}: {error}.", "Look for what is missing with: orchestrator doctor.") from error


def as_data(ready: Ready) -> Mapping[str, Any]:
    """What there is, without the facts."""
    return {
        "folder": str(ready.folder),
        "counts": dict(ready.counts),
        "problems": [dataclasses.asdict(problem) for problem in ready.problems],
        "seconds": ready.seconds,
        "built": ready.built,
        "classes": ready.classes,
        "bytes": sum(file.stat().st_size for file in ready.folder.rglob("*") if file.is_file()),
    }


def _say(text: str) -> None:
    _print({"say": text})


def _print(line: Mapping[str, Any]) -> None:
    os.write(_OUT, (json.dumps(line) + "\n").encode())


def main(file: str) -> int:
    """Prepare; 0 when everything is there."""
    request = Request(**json.loads(Path(file).read_text(encoding="utf-8")))
    builder = make_builder(request)
    try:
        found = prepare(request, builder)
    except OrchestratorError as error:
        problems = [as_data(ready) for ready in builder.used]
        _print(
            {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}, "ready": problems}
        )
        return 1
    _print({"ready": [as_data(ready) for ready in found]})
    return 0


if __name__ == "__main__":
    _OUT = os.dup(1)
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1]))
