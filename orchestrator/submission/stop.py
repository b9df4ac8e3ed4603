"""Stopping a run from outside: a request in its folder, and Ray's help where its driver does not react."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.cluster.node import here, home
from orchestrator.errors import MachineError
from orchestrator.records import status
from orchestrator.records.finder import Subject
from orchestrator.records.status import Standing
from orchestrator.records.stop_request import StopRequest
from orchestrator.submission import ray_status
from orchestrator.submission.ray_jobs import RayJobs

REACTION_S = 20.0
"""A driver looks for requests all the time; after so long it is taken for dead or hung."""
POLL_S = 0.5


def ask(found: Subject, *, now: bool, grace_s: float) -> Standing:
    """Ask the run's driver to save and end, or to end at once. Returns where the run stood before."""
    standing = status.stand(found, ray_status.ask)
    if not standing.is_over:
        StopRequest(now=now, grace_s=grace_s, time=time.time()).write(found.store)
    return standing


def wait(found: Subject, *, limit_s: float, look: Callable[[Standing], None] = lambda _: None) -> Standing:
    """Wait until the run is over; when `limit_s` and the time to react are over, Ray ends its driver."""
    end, pressed = time.monotonic() + limit_s + REACTION_S, False
    while True:
        found = found.fresh()
        standing = status.stand(found, ray_status.ask)
        look(standing)
        if standing.is_over:
            return standing
        if time.monotonic() > end:
            if pressed:
                raise MachineError(
                    f"Run {found.id} does not end: it is {standing.state.value}.",
                    f"Look at what its driver does: {found.root}/logs/driver.log",
                )
            press(found)
            end, pressed = time.monotonic() + REACTION_S, True
        time.sleep(POLL_S)


def press(found: Subject) -> None:
    """Have Ray end the driver of a job, and with it the workers; its own 3 s are all it gets."""
    latest = found.job.latest if found.job else None
    if latest is None:
        raise MachineError(
            f"Run {found.id} was not submitted, and the process that carries it out does not react.",
            "Stop it where it was started, with Ctrl-C.",
        )
    cluster = home.of(latest.cluster).read() if latest.cluster else here.found()
    if cluster is None:
        raise MachineError(
            f"The cluster {latest.cluster} is not up on this machine, so Ray cannot be asked to stop {found.id}.",
            "Do it on the head of that cluster.",
        )
    RayJobs(cluster).stop(latest.id)
