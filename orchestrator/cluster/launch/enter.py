"""Run a command on a node as part of its cluster: `python -m orchestrator.cluster.launch.enter NAME COMMAND...`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from orchestrator.cluster.node import here, ray_service
from orchestrator.foundation.environment import quiet_telemetry

NOT_UP = 3
NOT_FOUND = 127


def main(name: str, *command: str) -> int:
    """Become the command, with the environment's programs first and the cluster in the environment."""
    os.environ[here.CHOICE] = name
    quiet_telemetry(os.environ)
    record = here.adopt(os.environ)
    if record is None:
        print(f"The cluster {name} is not up on this machine.", file=sys.stderr)
        return NOT_UP
    # What commands leave behind goes with the cluster.
    leavings = ray_service.leavings(record.scratch, os.environ)
    os.environ |= {**leavings, "ORCHESTRATOR_CACHE": f"{record.scratch}/cache"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{shlex.quote(command[0])} cannot be run: {error.strerror}.", file=sys.stderr)
        return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
