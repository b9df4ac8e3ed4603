"""A person's own training script, unchanged, as what each worker runs: `job=script script=train.py`.

The worker stays beside it: it gives it torchrun's environment and a DeepSpeed config, ends it when the run is to stop,
and tells how it ended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.config.schema import JobSpec
from orchestrator.config.spec import spec_from_dict
from orchestrator.errors import ConfigError
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import Plan, Row
from orchestrator.records import events
from orchestrator.records.events import EventReader, EventWriter
from orchestrator.runtime.launchers.base import die_with_parent
from orchestrator.runtime.worker.context import WorkerContext

ENTRY = "orchestrator.runtime.worker.script.script:run"
WRITER = "script"
LAUNCH = "ORCHESTRATOR_LAUNCH"
"""Names the file with which a script's process finds its run."""
FOLDER = "ORCHESTRATOR_CHECKPOINTS"
"""Names the folder for a script's own checkpoints."""
GRACE_S = 60.0
"""For a script to save and end after it was sent SIGTERM."""
LOOK_S = 0.2


def run(ctx: WorkerContext) -> None:
    """Carry out the script on this worker."""
    plan = Plan.from_dict(ctx.launch.plan)
    spec, row = spec_from_dict(plan.spec), plan.row(ctx.world_size)
    writer = EventWriter(open_store(ctx.launch.root), WRITER, ctx.launch.attempt) if ctx.rank == 0 else None
    with tempfile.TemporaryDirectory(prefix="orchestrator-script-") as scratch:
        command = _command(ctx, spec, row, Path(scratch))
        if writer:
            about = {
                "total_steps": None,
                "steps_per_epoch": None,
                "device": "cpu" if not plan.resources.gpus else "cuda",
            }
            # Where it goes on from, the script alone knows.
            writer.emit(events.STARTED, None, world_size=ctx.world_size, parameters=None, **about)
        process = subprocess.Popen(
            command, cwd=ctx.launch.project, env=_environment(ctx, Path(scratch)), preexec_fn=_die_with_worker
        )
        stopped = _wait(process, ctx)
    _judge(process.returncode, stopped=stopped)
    if writer:
        step, metrics = _reached(ctx)
        reason = "stopped" if stopped else "done"
        writer.emit(events.FINISHED, step, reason=reason, metrics=metrics, best_step=None)


def _die_with_worker() -> None:
    """At once: the next attempt begins soon, and writes where this one would."""
    die_with_parent(signal.SIGKILL)


def _command(ctx: WorkerContext, spec: JobSpec, row: Row, scratch: Path) -> list[str]:
    config = scratch / "deepspeed.json"
    config.write_text(json.dumps(row.deepspeed, indent=2) + "\n")
    (scratch / "launch.json").write_text(json.dumps(dataclasses.asdict(ctx.launch)))
    script = Path(ctx.launch.project) / str(spec.script)
    if not script.is_file():
        raise ConfigError(f"script={spec.script}: there is no such file in {ctx.launch.project}.")
    known = {
        "deepspeed_config": config,
        "checkpoints": checkpoint_folder(ctx),
        "run": ctx.launch.run_id,
        "batch": row.batch,
        "micro_batch": row.micro_batch,
        "accumulation": row.accumulation,
        "seed": spec.job.seed,
    }
    return [
        sys.executable,
        "-u",
        "-m",
        "orchestrator.runtime.worker.script.main",
        str(script),
        *filled(spec.script_args, known),
    ]


def filled(arguments: list[str], known: Mapping[str, Any]) -> Iterator[str]:
    """A script's arguments, with what is known only now in place of {names}."""
    for argument in arguments:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(argument) if name is not None}
        except ValueError:  # a brace that stands for itself
            names = set()
        for name in names & set(known):
            argument = argument.replace("{" + name + "}", str(known[name]))
        yield argument


def checkpoint_folder(ctx: WorkerContext) -> str:
    """Where a script may keep checkpoints of its own: all attempts of the run, and all its workers, have the same."""
    root = ctx.launch.root
    place = tempfile.gettempdir() + f"/orchestrator-{ctx.launch.run_id}" if paths.is_url(root) else root
    return f"{place}/{paths.SCRIPT_CHECKPOINTS}"


def _environment(ctx: WorkerContext, scratch: Path) -> dict[str, str]:
    """Torchrun's, for a meeting of the scripts' own; and where the run is."""
    # Scripts meet by themselves, at another port than the workers did; torchrun's own store is not theirs.
    own = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    address, port = _meeting_point(ctx)
    folder = checkpoint_folder(ctx)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return own | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # with what the project's own packages added to it
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        LAUNCH: str(scratch / "launch.json"),
        FOLDER: folder,
        "ORCHESTRATOR_RUN": ctx.launch.run_id,
        "ORCHESTRATOR_ATTEMPT": str(ctx.launch.attempt),
        "ORCHESTRATOR_DEEPSPEED_CONFIG": str(scratch / "deepspeed.json"),
        **ctx.launch.tracking,
    }


def _meeting_point(ctx: WorkerContext) -> tuple[str, int]:
    """The first worker's address and a port that is free there."""
    import torch.distributed as dist

    address = os.environ["MASTER_ADDR"]
    meeting: list[Any] = [None]
    if ctx.rank == 0:
        with socket.socket() as probe:
            probe.bind((address, 0))
            meeting = [(address, probe.getsockname()[1])]
    dist.broadcast_object_list(meeting)
    return str(meeting[0][0]), int(meeting[0][1])


def _wait(process: subprocess.Popen[bytes], ctx: WorkerContext) -> bool:
    """Until the script has ended; whether that was because the run is to stop."""
    deadline = 0.0
    while process.poll() is None:
        if not deadline and ctx.should_stop():
            process.terminate()
            deadline = time.monotonic() + GRACE_S
        elif deadline and time.monotonic() > deadline:
            process.kill()
        time.sleep(LOOK_S)
    return bool(deadline)


def _judge(code: int, *, stopped: bool) -> None:
    """End as the script ended. What its exception was, it has told by itself."""
    if stopped or code == 0:
        return
    if code < 0:
        # So that a script that was killed, for lack of memory as a rule, counts as a worker that was.
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(code)


def _reached(ctx: WorkerContext) -> tuple[int, dict[str, float]]:
    """The step and the metrics that the script reported last."""
    step, metrics = 0, {}
    for event in EventReader(open_store(ctx.launch.root)).poll():
        if event.kind == events.METRICS and event.step is not None:
            step = max(step, event.step)
            metrics.update(event.data["metrics"])
    return step, metrics
