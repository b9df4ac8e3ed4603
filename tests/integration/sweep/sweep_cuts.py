"""A sweep that is cut: its command, its engine, a worker and the head of its Ray killed at random moments, and resumed.

`python -m tests.integration.sweep.sweep_cuts` (`make matrix`) does so with 20 sweeps of 24 trials, grid and random search in
turn, goes on where it was interrupted, and writes the table in docs/sweeps.md after each of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from orchestrator.foundation.storage import write_atomically
from orchestrator.sweeps import driver, record
from orchestrator.sweeps.report.report import Report
from orchestrator.tracking.store import prepare, resolve_uri
from tests.integration.checkpoint import cuts
from tests.integration.processes import children
from tests.integration.sweep.sweeping import (
    LOG,
    SMALL,
    Watcher,
    book_of,
    check_mlflow,
    check_nothing_was_lost,
    command,
    has_ended,
    make,
    wait_for,
)
from tests.integration.tracking.recording import connect

TRIALS = 24
SEEDS = 20
WIDTHS = (8, 16, 32, 64)
SEARCHES = {
    "grid": ("optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2", f"model.width={','.join(map(str, WIDTHS))}"),
    "random": (
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        f"model.width={','.join(map(str, WIDTHS))}",
        "sweep.search=random",
        f"sweep.trials={TRIALS}",
    ),
}
VICTIMS = {
    "worker": ("ray::GangMember", "ray::WarmTrial"),
    "command": (),
    "engine": ("orchestrator.sweeps.engine.engine",),
    "head": ("gcs_server", "raylet/raylet"),
}
"""What is killed, each once in every sweep, in random order; and how the processes are called that it may be."""
PATIENT = "tracking.timeout_s=60"
"""The machine may have much to do beside."""
MOST_S = 1.0
"""A kill comes up to so long after the trial that it waits for."""
END_S = 300.0
RESULTS = cuts.RESULTS.with_name("sweep_matrix.json")
DOCUMENT = cuts.ROOT / "docs" / "sweeps.md"


def undisturbed(search: str, *overrides: str) -> Report:
    """The same sweep without kills, in the current folder."""
    return driver.carry_out(*make(f"whole-{search}", *SMALL, *SEARCHES[search], "tracking=off", *overrides), Watcher())


def killed(name: str, seed: int, victims: Sequence[str], trials: int, *overrides: str) -> Report:
    """A sweep of these overrides, in the course of which each victim is killed, and which is resumed to its end."""
    chance = random.Random(seed)
    order = chance.sample(victims, len(victims))
    process = command("--name", name, *SMALL, PATIENT, *overrides)
    for victim, after in zip(order, sorted(chance.choices(range(trials * 3 // 4), k=len(order))), strict=True):
        wait_for(process, has_ended(name, after))
        wait_for(process, _is_there(process.pid, victim))
        time.sleep(chance.uniform(0, MOST_S))
        _kill(process, victim, chance)
        if victim != "worker" or process.poll() is not None:
            process.wait(END_S)
            process = command("resume", name)
    assert process.wait(END_S) == 0, LOG.read_text()
    return Report(record=record.load("runs", name), book=book_of(name))


def _is_there(pid: int, victim: str) -> Callable[[], bool]:
    return lambda: victim == "command" or bool(children(pid, *VICTIMS[victim]))


def _kill(process: subprocess.Popen[bytes], victim: str, chance: random.Random) -> None:
    assert process.poll() is None, f"the sweep was over before its {victim} could be killed"
    there = [psutil.Process(process.pid)] if victim == "command" else children(process.pid, *VICTIMS[victim])
    chance.choice(there).send_signal(signal.SIGKILL)


def difference_after_kills(seed: int, whole: Report, search: str) -> str | None:
    """What is not as in the undisturbed sweep, in the ledger or in MLflow."""
    try:
        report = killed("cut", seed, list(VICTIMS), TRIALS, *SEARCHES[search])
        check_nothing_was_lost(report, whole)
        check_mlflow(report, connect(resolve_uri(None, str(Path("runs").absolute()))))
    except AssertionError as error:
        return " ".join(str(error).split())[-300:] or "it differs"
    return None


def main() -> None:
    """What has no result yet is run; then the table is written."""
    results: dict[str, str | None] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    scratch = Path(tempfile.mkdtemp(prefix="orchestrator-sweep-matrix-"))
    os.environ["ORCHESTRATOR_HOME"] = str(scratch / "home")
    wholes: dict[str, Report] = {}
    prepare(resolve_uri(None, str(scratch)), 60)
    for seed in range(SEEDS):
        search = list(SEARCHES)[seed % len(SEARCHES)]
        name = f"{search} {seed}"
        if name in results:
            continue
        if search not in wholes:
            os.chdir(scratch)
            wholes[search] = undisturbed(search)
        folder = scratch / f"seed-{seed}"
        shutil.copytree(scratch / "mlflow", folder / "runs" / "mlflow")
        os.chdir(folder)
        began = time.monotonic()
        results[name] = difference_after_kills(seed, wholes[search], search)
        write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
        cuts.put_table(DOCUMENT, table(results))
        print(f"{name}: {results[name] or 'equal'}, {time.monotonic() - began:.0f} s", flush=True)
        os.chdir(scratch)
        if results[name]:
            print(f"  left in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    if any(results.values()):
        raise SystemExit(f"Some sweeps differ after they were killed; see {scratch}")
    shutil.rmtree(scratch)


def table(results: dict[str, str | None]) -> str:
    """Markdown."""
    kinds = ", ".join(VICTIMS)
    lines = [
        f"| search | sweeps of {TRIALS} trials | kills ({kinds}) | each trial once, all results and the best equal |"
    ]
    lines.append("| --- | --- | --- | --- |")
    for search in SEARCHES:
        mine = [value for name, value in results.items() if name.split()[0] == search]
        lines.append(f"| {search} | {len(mine)} | {len(mine) * len(VICTIMS)} | {mine.count(None)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
