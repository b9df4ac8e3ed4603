"""Datasets that stay in memory from one training to the next, in workers that take several."""

from __future__ import annotations

import json
from collections.abc import Callable

from orchestrator.runtime.context import Launch
from orchestrator.runtime.task import Dataset, Task


class KeptData:
    """The splits of one data config; those of another take their place."""

    def __init__(self) -> None:
        self._key = ""
        self._splits: dict[str, Dataset | None] = {}

    def splits(self, launch: Launch, task: Task) -> Callable[[str], Dataset | None]:
        """From a split's name to its items: as the Task makes them, or as they were made for an earlier training."""
        if not launch.keeps_data:
            return task.dataset
        spec = launch.plan["spec"]
        key = json.dumps([spec["data"], spec["job"]["task"]], sort_keys=True, default=str)
        if key != self._key:
            self._key, self._splits = key, {}

        def split(name: str) -> Dataset | None:
            if name not in self._splits:
                self._splits[name] = task.dataset(name)
            return self._splits[name]

        return split


KEPT = KeptData()
"""Of this process."""
