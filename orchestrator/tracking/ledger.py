"""How much of a run MLflow has: a small file in the run's folder, so that any later process can go on from there."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from orchestrator import paths
from orchestrator.foundation.storage import Store


@dataclass(kw_only=True)
class Ledger:
    """What MLflow has of one run. It may say less than is so, after a crash; never more."""

    mlflow_run_id: str = ""
    """The MLflow run that it speaks of."""
    cursors: dict[str, int] = field(default_factory=dict)
    """Up to where each event file was sent."""
    marks: dict[str, int] = field(default_factory=dict)
    """The highest step sent of each metric, by its name in MLflow."""
    sent: int = 0
    """Points sent and stored."""
    rejected: int = 0
    """Points that MLflow refused for good."""
    delivered: bool = False
    """All metrics were sent when the run, or its last attempt, had ended."""
    ended: int = 0
    """The attempt whose end, with its logs and status, is recorded."""
    model: bool = False
    """The final model is recorded."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def save(self, store: Store) -> None:
        """Write it, all or nothing."""
        with self._lock:
            store.write(paths.LEDGER, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, store: Store) -> Ledger:
        """The run's ledger; an empty one when there is none, or when it is damaged: what is sent again does no harm."""
        try:
            data: dict[str, Any] = json.loads(store.read(paths.LEDGER))
            known = {field.name for field in dataclasses.fields(cls)}
            return cls(**{name: value for name, value in data.items() if name in known})
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return cls()
