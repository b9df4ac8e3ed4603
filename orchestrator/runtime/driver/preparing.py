"""The first stage of a run: its data is prepared, in a process of its own, before there are workers."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import errors, paths
from orchestrator.config.schema import JobSpec, LauncherName
from orchestrator.config.targets import targets
from orchestrator.data.prepared import is_prepared
from orchestrator.data.stage import Request
from orchestrator.errors import OrchestratorError, RunFailedError
from orchestrator.foundation.storage import Store
from orchestrator.plans.types import Plan
from orchestrator.records.runs import RunRecord
from orchestrator.runtime.launchers.base import die_with_parent
from orchestrator.runtime.worker import environment

LOOK_S = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Data that lies ready (`cache.Ready`, from the other process)."""

    folder: str
    counts: Mapping[str, int]
    problems: tuple[Mapping[str, str], ...]
    seconds: float
    built: bool
    bytes: int
    classes: list[str]

    def __str__(self) -> str:
        items = ", ".join(f"{count:,} {split}" for split, count in self.counts.items() if count)
        how = f"prepared in {self.seconds:.1f} s" if self.built else "found prepared"
        return f"data {how}: {items} items in {self.folder}"


def request_for(tree: Mapping[str, Any], spec: JobSpec, project: str, package: str = "") -> Request | None:
    """What is to be prepared for a config; None when its data is read as it is, or nothing can be told here."""
    if spec.script is not None or importlib.util.find_spec("torch") is None:
        return None
    bound = targets.bind(tree, project=Path(project))
    if not is_prepared(bound.data_node.call):
        return None
    return Request(
        spec=dict(tree),
        project=project,
        ray=spec.cluster.launcher is LauncherName.ray,
        address=spec.cluster.address or "",
        package=package,
    )


def first_stage(
    record: RunRecord, plan: Plan, spec: JobSpec, say: Say, stopped: Callable[[], bool], package: str = ""
) -> None:
    """Prepare a run's data if it says so; what could not be used is listed in its folder, also when it was too much."""
    request, store = request_for(plan.spec, spec, record.project, package), record.store
    if request is None:
        return
    say("preparing data")
    try:
        found = run(request, say, stopped)
    except TooManyUnreadable as error:
        _list_unusable(store, error.found)
        raise error.cause from None
    _list_unusable(store, found)
    for prepared in found:
        say(str(prepared))
        if prepared.problems:
            some = "1 item cannot be used and is" if len(prepared.problems) == 1 else None
            some = some or f"{len(prepared.problems):,} items cannot be used and are"
            say(f"note: {some} passed over: see {paths.UNREADABLE}")


class TooManyUnreadable(Exception):
    """Everything is prepared, and was refused for its unusable items."""

    def __init__(self, cause: OrchestratorError, found: list[Prepared]) -> None:
        super().__init__(cause, found)
        self.cause = cause
        self.found = found


def run(request: Request, say: Say, stopped: Callable[[], bool] = lambda: False) -> list[Prepared]:
    """Have the data prepared. `stopped` is asked now and then; once it says so, KeyboardInterrupt is raised."""
    # One item is too little for several threads, which would wait for each other.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.give(request.spec, env)
    with tempfile.TemporaryDirectory(prefix="orchestrator-prepare-") as scratch:
        file, log = Path(scratch) / "request.json", Path(scratch) / "log"
        file.write_text(json.dumps(dataclasses.asdict(request)), encoding="utf-8")
        with log.open("wb") as errors_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.data.stage", str(file)],
                stdout=subprocess.PIPE,
                stderr=errors_file,
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            last = _follow(process, say, stopped)
            process.wait()
        finally:
            _end(process)
        return _result(last, process.returncode, log)


def _follow(process: subprocess.Popen[bytes], say: Say, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Pass on what is said, to the end; the last line is the outcome."""
    assert process.stdout is not None
    last: dict[str, Any] = {}
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if stopped():
                raise KeyboardInterrupt
            if not selector.select(LOOK_S):
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return last
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                last = json.loads(line)
                if "say" in last:
                    say(last["say"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout:
        process.stdout.close()


def _result(last: dict[str, Any], code: int, log: Path) -> list[Prepared]:
    found = [Prepared(**{**ready, "problems": tuple(ready["problems"])}) for ready in last.get("ready", [])]
    if "error" in last:
        told = last["error"]
        kind = getattr(errors, told["type"], RunFailedError)
        error: OrchestratorError = kind(told["message"], told["hint"])
        if any(prepared.problems for prepared in found):
            raise TooManyUnreadable(error, found)
        raise error
    if code != 0 or "ready" not in last:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
        raise RunFailedError(f"Preparing the data failed: {lines[-1].strip()}.", "\n".join(lines[-20:-1]))
    return found


def _list_unusable(store: Store, found: list[Prepared]) -> None:
    lines = [json.dumps(problem) for prepared in found for problem in prepared.problems]
    if lines:
        store.write(paths.UNREADABLE, "\n".join(lines) + "\n")
