"""Plans of trials: each the plan that a single training of the same overrides would have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from orchestrator import paths
from orchestrator.cluster.nodes import inventory
from orchestrator.config.load import Loaded
from orchestrator.config.schema import SearchName
from orchestrator.config.targets import targets
from orchestrator.errors import MachineError, OrchestratorError
from orchestrator.plans import script
from orchestrator.plans.make import check, make
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.types import Plan
from orchestrator.sweeps.definition import Definition, grid_values
from orchestrator.sweeps.search.search import draw_random
from orchestrator.sweeps.space.space import Values

BATCH = ("batch", "micro_batch", "accumulation")
SAMPLE = 20
"""So many trials of a space that cannot be listed are planned before anything starts."""


class Planner:
    """Makes the plans of a sweep's trials; asks once what machines there are."""

    def __init__(self, definition: Definition, there: Inventory | None = None) -> None:
        self._definition = definition
        self._there = there
        self._checked: set[tuple[str, ...]] = set()

    @cached_property
    def inventory(self) -> Inventory:
        """What there is to plan for."""
        return self._there or inventory.for_spec(self._definition.spec)

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """The plan of a trial."""
        space = self._definition.space
        return self._make(self._definition.variants.load(space.choices(values), space.settings(values)))

    def halved(self, values: Mapping[str, Any], plan: Plan) -> Plan | None:
        """A trial's plan with about half the micro batch and the same global batch; None: it is one sample already."""
        row, space = plan.preferred, self._definition.space
        share = row.micro_batch * row.accumulation
        micro = next((size for size in range(row.micro_batch // 2, 0, -1) if share % size == 0), None)
        if micro is None:
            return None
        others = {key: value for key, value in values.items() if key not in BATCH}
        factors = [f"batch={row.batch}", f"micro_batch={micro}", "accumulation=null"]
        loaded = self._definition.variants.load(space.choices(others), [*space.settings(others), *factors])
        return self._make(loaded)

    def _make(self, loaded: Loaded) -> Plan:
        storage = loaded.spec.storage
        place = paths.absolute(storage.path)
        shared = storage.shared or paths.is_url(place) or inventory.is_shared_filesystem(place)
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
        check(loaded.spec, shared_storage=shared, tracking_uri=tracking_uri)
        if loaded.spec.script is not None:
            script.check(loaded.spec, paths.project_dir())
        return make(
            loaded.resolved,
            loaded.spec,
            self.inventory,
            environment=inventory.versions(),
            shared_storage=shared,
            project=paths.project_dir(),
            tracking_uri=tracking_uri,
        )

    def check_all(self) -> list[tuple[Values, Plan]]:
        """Plan every trial of a grid, or a sample of another space. Raises for the first that cannot run."""
        return [(values, self._explained(number, values)) for number, values in enumerate(self._first())]

    def _first(self) -> Iterator[Values]:
        if self._definition.search is SearchName.grid:
            yield from grid_values(self._definition)
            return
        for number in range(min(SAMPLE, self._definition.trials)):
            yield draw_random(self._definition.space, self._definition.settings.seed, number)

    def _explained(self, number: int, values: Values) -> Plan:
        """A trial's plan; an error names the trial, and which of its overrides brought it about."""
        try:
            plan = self.plan(values)
            self._check_code(plan, self._definition.space.choices(values))
        except MachineError:
            raise  # of the machines there are, and of no trial's values as a rule
        except OrchestratorError as error:
            raise type(error)(f"{error.message.rstrip('.')} ({self._blame(number, values)}).", error.hint) from error
        return plan

    def _check_code(self, plan: Plan, choices: Sequence[str]) -> None:
        """Import what the config names, once for each choice of groups; where there is no torch, the workers do."""
        import importlib.util

        known = plan.spec.get("script") is not None or tuple(choices) in self._checked
        if not known and importlib.util.find_spec("torch") is not None:
            targets.bind(plan.spec, project=paths.project_dir())
        self._checked.add(tuple(choices))

    def _blame(self, number: int, values: Values) -> str:
        """Which single value, replaced by another of its parameter, would let the trial be planned."""
        space = self._definition.space
        guilty = [key for key in values if self._would_do(values, key)]
        shown = space.overrides({key: values[key] for key in guilty} or values)
        return f"trial {number}: {' '.join(shown)}"

    def _would_do(self, values: Values, key: str) -> bool:
        domain = next(p.domain for p in self._definition.space.parameters if p.key == key)
        for place in (0.0, 0.5, 1.0):
            other = {**values, key: domain.at(place)}
            if other[key] == values[key]:
                continue
            try:
                self.plan(other)
            except OrchestratorError:
                continue
            return True
        return False


def concurrency(definition: Definition, plan: Plan, there: Inventory) -> int:
    """How many trials fit at the same time, by what the machines have."""
    if definition.settings.max_concurrent:
        return definition.settings.max_concurrent
    need, slots = plan.resources, 0.0
    for node in there.nodes:
        by_cpu = node.cpus // need.cpus if need.cpus else float("inf")
        by_gpu = len(node.gpus) * 1000 // (need.gpus * 1000) if need.gpus else float("inf")
        slots += min(by_cpu, by_gpu)
    return max(1, int(slots // plan.preferred.world_size)) if slots != float("inf") else 1
