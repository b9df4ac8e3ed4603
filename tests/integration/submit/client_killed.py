"""Submits once for each step at which a client can die, dies there, and submits again. Run: python FILE PLAN, or STEP... -- OVERRIDE..."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from orchestrator.cluster.node import here
from orchestrator.config.request import ConfigArgs
from orchestrator.submission import enqueue, request, sweeps

STEPS = ("asked", "locked", "index", "package", "plan", "config", "job", "submission", "submitted", "told")


def in_a_child(do: Callable[[], object]) -> int:
    """The signal that ended it; 0: none did."""
    child = os.fork()
    if child == 0:
        do()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_after(step: str) -> Callable[[str], None]:
    """A client that is killed right after a step."""

    def reached(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def main(*words: str) -> None:
    """One run for each step; or, with STEP... -- OVERRIDE..., one sweep for each of these steps."""
    here.adopt(os.environ)
    if "--" not in words:
        request.hand_in(ConfigArgs(), words[0], "kill-warm", "1MiB")  # what is imported once is there for all
        kill(STEPS, lambda run: request.hand_in(ConfigArgs(), words[0], run, "1MiB"))
        return
    split = words.index("--")
    config = ConfigArgs(overrides=words[split + 1 :])
    kill(words[:split], lambda name: sweeps.hand_in(config, name, "1MiB"))


def kill(steps: Sequence[str], ask: Callable[[str], object]) -> None:
    """Ask, die after a step, and ask again, for each step."""
    told = {}
    for step in steps:
        run, hand_in = f"kill-{step}", enqueue.hand_in

        def submit(reached: Callable[[str], None], run: str = run, hand_in: Callable[..., object] = hand_in) -> None:
            enqueue.hand_in = lambda *words, **_: hand_in(*words, reached)  # type: ignore[assignment]
            reached("asked")
            ask(run)
            reached("told")

        killed = in_a_child(lambda submit=submit, step=step: submit(dies_after(step)))  # type: ignore[misc]
        again = in_a_child(lambda submit=submit: submit(lambda done: None))  # type: ignore[misc]
        told[step] = [killed, again]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
