"""Datasets that stay in memory from one training to the next, in workers that take several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.task import Dataset


class KeptData:
    """What a config's data callable has made; that of another config takes its place."""

    def __init__(self) -> None:
        self._key = ""
        self._splits: dict[str, Dataset | None] = {}

    def data(self, config: Mapping[str, Any], make: Callable[[str], Dataset | None]) -> Callable[[str], Dataset | None]:
        """A data callable like `make`, but for what was made before. What a Task does with a dataset it does anew."""
        key = json.dumps(config, sort_keys=True, default=str)
        if key != self._key:
            self._key, self._splits = key, {}

        def split(name: str) -> Dataset | None:
            if name not in self._splits:
                self._splits[name] = make(name)
            return self._splits[name]

        return split


KEPT = KeptData()
"""Of this process."""
