"""A gang of Ray actors, placed as a whole: they carry out one launch after the other, and end together.

Ray Train starts a controller and helpers beside the workers, which costs more than the workers do. What is needed of it
is here; what follows a failure is for the driver to decide.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.foundation.environment import TELEMETRY_OFF
from orchestrator.plans.types import WorkerResources
from orchestrator.records.failures import is_about_connection
from orchestrator.runtime.launchers.ray.deaths import describe, is_loss, wait_until_gone
from orchestrator.runtime.launchers.ray.holders import group_name
from orchestrator.runtime.launchers.ray.slots import Member, Seat, arrange
from orchestrator.runtime.worker.context import Launch

WORKER = "orchestrator.runtime.worker.train"
PLACE_S = 15.0
"""Whoever asks for a gang has seen room for it; after this, the room is gone."""
START_S = 120.0
"""For worker processes to begin on nodes that were idle, maybe with their Python on a network file system."""
GATHER_S = 0.2
"""After a worker died, for others that died of the same."""
GRACE_S = 3.0
"""After a worker lost the connection to another one, for the news of what happened to that."""
STOP_S = 10.0
"""For processes to be gone that were killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A worker that died without an exception of its own."""

    rank: int
    node: str
    """Ray's id of its node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GangEnd:
    """How a launch ended."""

    error: str = ""
    """Empty: all workers returned in order."""
    started: bool = True
    """Whether the workers had started: if not, the same may go well elsewhere."""
    lost: tuple[Lost, ...] = ()


@dataclass(slots=True)
class Round:
    """Calls to members of which all must be answered before the next thing happens."""

    calls: dict[Any, int] = field(default_factory=dict)
    """Ray's references, each with the number of the member."""
    then: Callable[[dict[int, Any]], None] = lambda answers: None
    answers: dict[int, Any] = field(default_factory=dict)
    until: float = math.inf
    too_late: str = ""
    """What it means when they are not answered until then."""


class Gang:
    """So many equal workers. Needs a connection to Ray; not for several threads at once."""

    def __init__(
        self,
        workers: int,
        resources: WorkerResources,
        where: Mapping[str, Any],
        names: Mapping[str, str] | None = None,
        placed: Callable[[dict[int, str]], None] = lambda nodes: None,
        group: Any = None,
    ) -> None:
        """`where`: `placement_strategy` and `label_selector` as Ray Train has them; `names`: of nodes, by Ray's id;
        `placed` is called with the name of each rank's node, when these are settled; `group`: a placement group whose
        first bundles are the workers' places, in place of one of our own.
        """
        self._workers = workers
        self._resources = resources
        self._where = where
        self._names = names or {}
        self._tell_placed = placed
        self._launch: Launch | None = None
        self._given = group
        self._group: Any = None
        self._actors: list[Any] = []
        self._members: dict[int, Member] = {}
        self._seats: list[Seat] = []
        self._round = Round()
        self._failed: dict[int, Mapping[str, str]] = {}
        self._dead: dict[int, Exception] = {}
        self._verdict_at = math.inf
        self._started = False
        self._end: GangEnd | None = None

    # --- what others call ----------------------------------------------------------------------------------------
    def assemble(self) -> None:
        """Begin to start the workers, before there is a launch for them; returns at once."""
        import ray

        self._end = None
        bundle, selector = self._bundle(), self._where.get("label_selector")
        selectors = [selector] * self._workers if isinstance(selector, Mapping) else selector
        self._group = self._given or ray.util.placement_group(
            [bundle] * self._workers,
            strategy=self._where.get("placement_strategy", "PACK"),
            bundle_label_selector=selectors,
            name=group_name(self._launch.run_id, self._launch.attempt) if self._launch else "",
        )
        too_late = f"there was no room for them within {PLACE_S:g} s"
        self._ask({self._group.ready(): 0}, self._create, within_s=PLACE_S, too_late=too_late)

    def start(self, launch: Launch) -> None:
        """Begin to carry out a launch; returns at once. A gang whose last launch ended in order takes another one."""
        self._launch = dataclasses.replace(launch, world_size=self._workers)
        self._started, self._end = False, None
        if self._seats:
            self._meet()
        elif self._group is None:
            self.assemble()

    def poll(self, timeout_s: float = 0.0) -> GangEnd | None:
        """None while the launch is under way. Waits so long for something to happen."""
        import ray

        if self._end is None and self._round.calls:
            calls = list(self._round.calls)
            timeout_s = max(0.0, min(timeout_s, self._deadline() - time.monotonic()))
            if ray.wait(calls, num_returns=1, timeout=timeout_s)[0]:
                for ref in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
                    self._take(ref)
            self._go_on()
        return self._end

    def run(self, launch: Launch) -> GangEnd:
        """Carry out a launch to its end."""
        self.start(launch)
        while (end := self.poll(1.0)) is None:
            pass
        return end

    def stop(self) -> list[int]:
        """Kill all workers and give back what they held. Idempotent.

        When it returns the processes are gone, but for the ranks it names: nothing was heard of these within STOP_S.
        """
        import ray

        for actor in self._actors:
            ray.kill(actor)
        left = wait_until_gone(list(self._members.values()), STOP_S)
        ranks = [self._rank(number) for number, member in self._members.items() if member in left]
        if self._group is not None and self._given is None:
            ray.util.remove_placement_group(self._group)
        self._group, self._actors, self._members, self._seats, self._round = None, [], {}, [], Round()
        return sorted(ranks)

    # --- the stages of a start -----------------------------------------------------------------------------------
    def _create(self, _: object) -> None:
        """Each member says who it is, and imports torch while the others are still on their way."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from orchestrator.runtime.launchers.ray.member import GangMember

        environment = {**TELEMETRY_OFF, "OMP_NUM_THREADS": str(self._resources.threads)}
        # Members set themselves what a runtime_env would: processes that Ray has ready then serve.
        create = ray.remote(GangMember)
        for number in range(self._workers):
            member = create.options(
                num_cpus=self._resources.cpus,
                num_gpus=self._resources.gpus,
                memory=self._resources.memory or None,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number),
            )
            self._actors.append(member.remote(environment))
        calls = {actor.introduce.remote(): number for number, actor in enumerate(self._actors)}
        for actor in self._actors:
            actor.prepare.remote(["torch"])
        too_late = f"their processes did not begin within {START_S:g} s"
        self._ask(calls, self._seat, within_s=START_S, too_late=too_late)

    def _seat(self, members: dict[int, Member]) -> None:
        self._members = dict(members)
        self._seats = arrange([members[number] for number in range(self._workers)])
        self._tell_placed({self._rank(number): self._named(self._node(number)) for number in members})
        if self._launch:
            self._meet()
        else:
            self._prepare()

    def _meet(self) -> None:
        """Rank 0 opens a store for the others to find it; they need not wait for that to go on importing."""
        first = self._first
        call = self._actors[first].host.remote(self._members[first].address)
        self._prepare()
        self._ask({call: first}, self._work)

    def _prepare(self) -> None:
        """A person's own entry may be importable only once boot has set the path, so it is not imported here."""
        ours = self._launch is None or self._launch.entry.startswith(f"{WORKER}:")
        for actor, seat in zip(self._actors, self._seats, strict=True):
            actor.prepare.remote(["orchestrator.runtime.fast_start.lean_deepspeed", WORKER] if ours else [], seat)

    def _work(self, answers: dict[int, int]) -> None:
        assert self._launch is not None
        launch, port = dataclasses.asdict(self._launch), answers[self._first]
        address, backend = self._members[self._first].address, "nccl" if self._resources.gpus else "gloo"
        calls = {
            actor.work.remote(launch, seat, backend, address, port): number
            for number, (actor, seat) in enumerate(zip(self._actors, self._seats, strict=True))
        }
        self._started = True
        self._ask(calls, self._finish)

    def _finish(self, answers: object) -> None:
        self._end = GangEnd()

    # --- answers, and what is made of them -----------------------------------------------------------------------
    def _ask(
        self,
        calls: dict[Any, int],
        then: Callable[[dict[int, Any]], None],
        within_s: float = math.inf,
        too_late: str = "",
    ) -> None:
        self._round = Round(calls=calls, then=then, until=time.monotonic() + within_s, too_late=too_late)

    def _take(self, ref: Any) -> None:
        """An answer, an exception of the worker's, or its death."""
        import ray

        number = self._round.calls.pop(ref)
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._dead[number] = error
            self._judge_within(GATHER_S)
            return
        if isinstance(answer, dict):
            self._failed[number] = answer
            self._judge_within(GRACE_S if is_about_connection(answer) else 0)
        self._round.answers[number] = answer

    def _judge_within(self, seconds: float) -> None:
        self._verdict_at = min(self._verdict_at, time.monotonic() + seconds)

    def _deadline(self) -> float:
        return min(self._round.until, self._verdict_at)

    def _go_on(self) -> None:
        """Take the next step, if there is one to take."""
        failed = self._dead or self._failed
        if failed and (time.monotonic() >= self._verdict_at or not self._round.calls):
            self._conclude(self._verdict())
        elif not failed and not self._round.calls:
            self._round.then(self._round.answers)
        elif time.monotonic() >= self._round.until:
            self._conclude(GangEnd(error=self._round.too_late, started=False))

    def _verdict(self) -> GangEnd:
        """Who died explains what the others say; who failed of itself explains who lost the connection."""
        dead = {self._rank(number): error for number, error in self._dead.items()}
        lost = {self._rank(number): self._node(number) for number in self._dead if is_loss(self._dead[number])}
        if dead:
            nodes = {rank: self._named(node) for rank, node in lost.items() if node}
            error = describe(dead, nodes, self._launch.root if self._launch else "")
        else:
            error = self._told()
        return GangEnd(
            error=error,
            started=self._started,
            lost=tuple(Lost(rank=rank, node=node) for rank, node in sorted(lost.items())),
        )

    def _told(self) -> str:
        """The exception of the first worker that failed, in one line."""
        failed = {self._rank(number): answer for number, answer in self._failed.items()}
        for rank, answer in failed.items():
            if not is_about_connection(answer):
                return f"worker {rank}: {answer['type']}: {' '.join(answer['message'].split())}"
        return f"worker {min(failed)} lost the connection to the others"

    def _conclude(self, end: GangEnd) -> None:
        self.stop()
        self._failed, self._dead, self._verdict_at = {}, {}, math.inf
        self._end = end

    # --- small things --------------------------------------------------------------------------------------------
    @property
    def _first(self) -> int:
        """The number of the member that has rank 0."""
        return next(number for number, seat in enumerate(self._seats) if seat.rank == 0)

    def _bundle(self) -> dict[str, float]:
        """What one worker holds."""
        given = {"CPU": self._resources.cpus, "GPU": self._resources.gpus, "memory": self._resources.memory}
        return {name: amount for name, amount in given.items() if amount}

    def _rank(self, number: int) -> int:
        return self._seats[number].rank if self._seats else number

    def _node(self, number: int) -> str:
        return self._members[number].node if number in self._members else ""

    def _named(self, node: str) -> str:
        return self._names.get(node, "") or f"node {node[:8]}"


def run(
    launch: Launch,
    resources: WorkerResources,
    workers: int,
    where: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    placed: Callable[[dict[int, str]], None] = lambda nodes: None,
) -> GangEnd:
    """Start a gang, carry out a launch, and end the gang."""
    gang = Gang(workers, resources, where, names, placed)
    try:
        return gang.run(launch)
    finally:
        gang.stop()
