"""Worker processes that need not import anything: forked from one that has imported torch and DeepSpeed.

For tests of what workers compute. Tests of how they are started, killed and ended take the launchers as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plans.types import WorkerResources

SERVE = "from tests.integration import nursery; nursery.serve()"
"""As a command, so that it has no main module, which the workers' own children would import."""
WORKER = ["-m", "orchestrator.runtime.launchers.torchrun"]


class Worker:
    """One that was forked, in the manner of subprocess.Popen."""

    stdin = None

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """Its exit code."""
        code = self._ended(0)
        assert code is not None
        return code

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask(wait=self.pid, options=options)
        return self.returncode


class Nursery:
    """The process that forks, and how it is told to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, **order: Any) -> Any:
        """Give an order, and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start_child(
        self, command: Sequence[str], log: Path, resources: WorkerResources, *, more: Mapping[str, str]
    ) -> Worker:
        """Stands for orchestrator.runtime.launchers.base.start_child."""
        python, *words = command
        assert (python, words[:2]) == (sys.executable, WORKER)
        environment = {**os.environ, "OMP_NUM_THREADS": str(resources.threads), **more}
        pid = self.ask(arguments=words[2:], log=str(log), folder=str(Path.cwd()), environment=environment)
        return Worker(self, pid)

    def close(self) -> None:
        """End it; workers end with it."""
        self._process.communicate()


def serve() -> None:
    """Fork workers until the input ends. Returns in none but the first process, and in each worker once it is done."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # some libraries greet people
    import torch

    from orchestrator.runtime.launchers import torchrun
    from orchestrator.runtime.worker import train  # noqa: F401  what every worker imports

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], order["options"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            answers.close()
            _become(order)
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            torchrun.main()
            return
        print(json.dumps(answer), file=answers, flush=True)


def _become(order: dict[str, Any]) -> None:
    """In the worker: what a process that was started anew would have."""
    os.setsid()
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-m", *order["arguments"]]
    sys.path[0] = order["folder"]
