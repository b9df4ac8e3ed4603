"""Preparing data with Ray Data: many records at once, on all nodes. Only the process that prepares imports this."""

from __future__ import annotations

import functools
import logging
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.data import build
from orchestrator.data.build import Builder, Outcome
from orchestrator.data.preparation import Facts, Preparation
from orchestrator.data.records import Record
from orchestrator.project import unpack

PATIENCE_S = 5.0
"""What this process can do alone in so many seconds is not worth the start of Ray."""
CHUNK = 64
"""Records that are prepared together."""
COLUMN = "chunk"


class RayBuilder(Builder):
    """Begins alone, and hands to Ray Data what is left after a few seconds."""

    def __init__(
        self, connect: Callable[[], None], project: str, say: Callable[[str], None], patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(say)
        self._connect = connect
        self._project = project
        self._patience_s = patience_s
        self._connected = False

    def run(self, rows: Sequence[Record], preparation: Preparation, facts: Facts) -> Iterator[Outcome]:
        """One outcome for each record, in their order."""
        done = 0
        deadline = time.monotonic() + self._patience_s
        alone = super().run(rows, preparation, facts)
        # The last few are not worth sending about.
        while done < len(rows) and (time.monotonic() < deadline or len(rows) - done <= CHUNK):
            yield next(alone)
            done += 1
        if done < len(rows):
            yield from self._with_ray(rows[done:], preparation, facts)

    def _with_ray(self, rows: Sequence[Record], preparation: Preparation, facts: Facts) -> Iterator[Outcome]:
        import ray

        if not self._connected:
            self.say(f"starting Ray Data for {len(rows):,} items")
            self._connect()
            self._connected = True
        _quiet()
        code = pickle.dumps((preparation, facts))
        chunks = [pickle.dumps(list(rows[start : start + CHUNK])) for start in range(0, len(rows), CHUNK)]
        prepared = ray.data.from_items([{COLUMN: chunk} for chunk in chunks]).map(
            _prepare_chunk, fn_kwargs={"code": code, "project": self._project}
        )
        for row in prepared.iter_rows():
            yield from pickle.loads(row[COLUMN])  # noqa: S301 - what our own processes sent


def _prepare_chunk(row: dict[str, Any], code: bytes, project: str) -> dict[str, Any]:
    """In a process of Ray: prepare some records."""
    prepare = _preparer(code, project)
    records = pickle.loads(row[COLUMN])  # noqa: S301 - what our own process sent
    return {COLUMN: pickle.dumps([build.outcome(prepare, record) for record in records])}


@functools.lru_cache(maxsize=4)
def _preparer(code: bytes, project: str) -> Any:
    """Made once in each process: reading a vocabulary takes longer than using it. `project`: a folder, or a package."""
    if project.endswith(".zip"):
        project = str(unpack.ready(project))
    if project not in sys.path and Path(project).is_dir():
        sys.path.insert(0, project)
    preparation, facts = pickle.loads(code)  # noqa: S301 - what our own process sent
    return preparation.preparer(facts)


def _quiet() -> None:
    """Order, and no progress bars: what there is to say is said by us."""
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
