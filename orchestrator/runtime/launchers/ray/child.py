"""The child process of RayLauncher: starts or joins Ray, and carries out one attempt after the other.

Each line of its input is an order, as JSON: `launch`, a file that says what to start, and `patient`, whether to wait
for machines that are not there. What comes of it stands in the report; the output is for the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.placement.misfit import Misfit, hint
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.base import read_launch
from orchestrator.runtime.launchers.ray import gang, head_watch, holders, node_watch, session
from orchestrator.runtime.launchers.ray.launcher import Reporter
from orchestrator.runtime.launchers.ray.scaling import Scaling, Spots
from orchestrator.runtime.worker.context import Launch

LOOK_S = 1.0
"""Between two looks for room."""
SETTLE_S = 3.0
"""Ray needs a moment to know what the workers of an attempt that just ended have let go of."""


class Child:
    """Carries attempts out, at an address of Ray or on a Ray of our own.

    A process whose own Ray is gone ends, for the launcher starts another with another Ray.
    """

    def __init__(self, address: str, reporter: Reporter, around: contextlib.ExitStack) -> None:
        self._address = address
        self._reporter = reporter
        self._around = around
        self._watch: head_watch.HeadWatch | None = None
        self._connected = False

    def carry_out(self, launch: Launch, resources: WorkerResources, *, patient: bool) -> None:
        """One attempt, to its end; the report tells which."""
        self._reporter.begin(launch.attempt)
        try:
            self._connect(launch, resources, patient=patient)
            error = self._train(launch, resources, patient=patient)
        except MachineError as refusal:
            self._reporter.tell(refused=_as_data(refusal))
        except Exception as bug:  # noqa: BLE001  the process' boundary: Ray raises what it likes, and the log has it
            traceback.print_exception(bug)
            self._reporter.tell(ended=session.first_line(bug))
        else:
            if error and self._watch:
                self._watch.check()
            self._reporter.tell(ended=error)

    def _connect(self, launch: Launch, resources: WorkerResources, *, patient: bool) -> None:
        while not self._connected:
            try:
                session.connect(self._address, launch, resources)
                self._connected = True
            except MachineError as error:
                if not patient:
                    raise
                self._reporter.tell(waits_for=_as_data(error))
                time.sleep(LOOK_S)
        if not self._address and not self._watch:
            self._watch = self._around.enter_context(head_watch.watched(_end, own=True))

    def _train(self, launch: Launch, resources: WorkerResources, *, patient: bool) -> str:
        """Run a gang; one that could not start is placed anew, since nodes may have gone meanwhile."""
        scaling = Scaling(launch, resources, own=not self._address)
        while True:
            spots = self._find_room(scaling, patient=patient)
            self._reporter.tell(workers=spots.workers, room=spots.workers, waits_for=None, waiting=None, placed={})
            with node_watch.repeated(partial(self._look, scaling, spots)):
                where, names = scaling.where(spots), spots.names
                ended = gang.run(launch, resources, spots.workers, where, names, self._tell_places)
            self._reporter.tell(lost=[lost.rank for lost in ended.lost])
            if ended.started:
                return (_lost_nodes(spots) if ended.error else "") or ended.error
            failed = MachineError(f"Ray could not start the workers: {ended.error}.", "Look at it with: ray status.")
            self._reporter.tell(workers=0, waits_for=_as_data(failed))
            time.sleep(LOOK_S)

    def _find_room(self, scaling: Scaling, *, patient: bool) -> Spots:
        """Wait for room; the driver knows how long. Refuses what will never fit, unless machines may come back."""
        settled = time.monotonic() + (SETTLE_S if patient else 0)
        while True:
            inventory = node_watch.usable_nodes()
            found = scaling.choose(inventory)
            if isinstance(found, Misfit):
                lacks = MachineError(f"{found.reason}.", hint(found, found.changes()))
                if not (patient or scaling.could_ever(inventory)):
                    raise lacks
                self._reporter.tell(waits_for=_as_data(lacks), waiting=_details(found, inventory, scaling))
            elif found.workers == found.could_be or time.monotonic() >= settled:
                return found
            time.sleep(LOOK_S if time.monotonic() >= settled else LOOK_S / 5)

    def _tell_places(self, nodes: Mapping[int, str]) -> None:
        self._reporter.tell(placed={str(rank): node for rank, node in nodes.items()})

    def _look(self, scaling: Scaling, spots: Spots) -> None:
        """While workers run: what else there would be room for, and which of their nodes leave."""
        leaving = sorted(spots.names[id_] for id_ in node_watch.leaving_nodes() if id_ in spots.names)
        room = scaling.room(node_watch.usable_nodes(), spots.nodes)
        self._reporter.tell(leaving=", ".join(leaving), room=room)


def _lost_nodes(spots: Spots) -> str:
    """The nodes of a gang that are not there any more, which explains whatever Ray says."""
    there = {node.id for node in node_watch.usable_nodes().nodes}
    lost = sorted(name for id_, name in spots.names.items() if id_ not in there)
    return f"{'node' if len(lost) == 1 else 'nodes'} {', '.join(lost)} went away" if lost else ""


def _details(misfit: Misfit, inventory: Inventory, scaling: Scaling) -> dict[str, Any]:
    """All that is known of what a gang waits for."""
    return holders.explain(misfit, inventory, holders.now(), scaling.fits_now)


def _as_data(error: MachineError) -> dict[str, str]:
    return {"message": error.message, "hint": error.hint}


def _end(reason: str) -> None:
    """At once, and with all that is left of the Ray: its own way out waits for what is gone."""
    import psutil

    print(reason, flush=True)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)


def main(folder: str, address: str) -> int:
    """Follow orders until there are no more."""
    with contextlib.ExitStack() as around:
        child = Child(address, Reporter(Path(folder)), around)
        for line in sys.stdin:
            order = json.loads(line)
            launch, resources = read_launch(order["launch"])
            child.carry_out(launch, resources, patient=order["patient"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
