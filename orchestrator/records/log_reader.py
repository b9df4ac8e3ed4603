"""The workers' own output, read as it comes."""

from __future__ import annotations

import re

from orchestrator import paths
from orchestrator.foundation.storage import Store

WORKER_LOG = re.compile(r"rank-\d+\.log")


class LogReader:
    """Reads what workers print, as it comes, from now on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: dict[str, int] = {}
        self.poll()

    def poll(self) -> list[str]:
        """New whole lines, each with the name of its worker."""
        lines: list[str] = []
        for name in self._store.list(paths.LOGS):
            if not WORKER_LOG.fullmatch(name):
                continue
            text, self._cursors[name] = self._store.tail(f"{paths.LOGS}/{name}", self._cursors.get(name, 0))
            lines.extend(f"[{name.removesuffix('.log')}] {line}" for line in text.splitlines())
        return lines
