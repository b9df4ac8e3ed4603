"""What the driver knows of an attempt beside its workers, written where everybody can read it, also later."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store
from orchestrator.records import events
from orchestrator.records.events import EventWriter
from orchestrator.records.failures import Failure
from orchestrator.runtime.launchers.base import Ended, Outlook


class Bulletin:
    """Tells what an attempt waits for and where its workers are, when that changes; and in the end why it failed.

    Storage that does not answer keeps nothing from going on: what is written here only explains.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: tuple[str, int, dict[str, Any]] | None = None

    def look(self, attempt: int, outlook: Outlook) -> None:
        """Write down what is new in an outlook."""
        if outlook.waits_for:
            message, hint = outlook.waits_for.message, outlook.waits_for.hint
            self._tell(events.WAITING, attempt, {"message": message, "hint": hint, **(outlook.waiting or {})})
        elif outlook.placed:
            nodes = {str(rank): node for rank, node in sorted(outlook.placed.items())}
            self._tell(events.PLACED, attempt, {"nodes": nodes})

    def end(self, attempt: int, outlook: Outlook, failure: Failure, ended: Ended) -> None:
        """Write down why an attempt failed, and where its workers were, if they were not there for long."""
        self.look(attempt, outlook)
        told = {
            "cause": failure.cause.value,
            "message": failure.message,
            "rank": failure.rank,
            "lost": sorted(ended.lost),
        }
        with contextlib.suppress(StorageError):
            self._store.write(paths.verdict(attempt), json.dumps(told, indent=2) + "\n")

    def _tell(self, kind: str, attempt: int, data: dict[str, Any]) -> None:
        if self._told == (kind, attempt, data):
            return
        self._told = (kind, attempt, data)
        with contextlib.suppress(StorageError):
            EventWriter(self._store, "driver", attempt).emit(kind, None, **data)
