"""What is looked at: a run in run storage, submitted or not, found by its id with or without a cluster.

No cluster is needed for that: workers and driver write logs, events, places and failures into the run's folder as they
happen, so `jobs`, `logs`, `attach` and `why` read the same before and after a cluster's end.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property

from orchestrator import paths
from orchestrator.errors import FormatError, StorageError, UnknownRunError, nearest
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records import jobs, runs
from orchestrator.records.events import METRICS, Event, read_event
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import LAST, RunRecord

METRICS_LINE = f'{{"kind":"{METRICS}"'
"""How such a line begins: not having to read it as JSON is what makes this quick."""
DEFAULT = "runs"
"""The storage folder that is meant where none is named."""


@dataclass(frozen=True)
class Subject:
    """One run, read when it is asked for; `fresh` reads it anew."""

    id: str
    root: str

    @property
    def store(self) -> Store:
        """The run's folder."""
        return open_store(self.root)

    @property
    def storage(self) -> str:
        """The folder that holds the run's."""
        return self.root.rpartition("/")[0]

    @cached_property
    def job(self) -> JobRecord | None:
        """How it was submitted; None when it was not."""
        return jobs.load(self.root)

    @cached_property
    def run(self) -> RunRecord | None:
        """What its driver keeps of it; None before a driver has begun."""
        try:
            return runs.read(self.store)
        except FileNotFoundError:
            return None

    @cached_property
    def events(self) -> list[Event]:
        """All that happened, in order, but for the metrics of every step: these would be most of it."""
        store, found = self.store, []
        for name in store.list(paths.EVENTS):
            text, _ = store.tail(f"{paths.EVENTS}/{name}")
            lines = (line for line in text.split("\n") if not line.startswith(METRICS_LINE))
            found += [event for line in lines if (event := read_event(line)) and event.kind != METRICS]
        return sorted(found, key=lambda event: event.time)

    @cached_property
    def storage_flag(self) -> str:
        """What a command needs in order to find it."""
        known = self.storage == paths.absolute(DEFAULT) or jobs.index_file(self.id).exists()
        return "" if known else f" --storage {shlex.quote(self.storage)}"

    def fresh(self) -> Subject:
        """The same, as it stands now."""
        return Subject(self.id, self.root)


def find(name: str, storage: str | None = None) -> Subject:
    """A run by its id, a unique beginning of one, or `last`: in `storage`, or among the runs here and the jobs
    submitted here.
    """
    known = roots(storage)
    if name == LAST and known:
        return max((Subject(run, root) for run, root in known.items()), key=_created)
    matches = [name] if name in known else [run for run in known if run.startswith(name)]
    if len(matches) > 1:
        raise UnknownRunError(f"Run id {name!r} is ambiguous: {', '.join(sorted(matches))}.", "Give more of it.")
    if not matches:
        raise _unknown(name, list(known), storage)
    subject = Subject(matches[0], known[matches[0]])
    if subject.run is None and subject.job is None:
        raise UnknownRunError(
            f"Run {subject.id} is not in {subject.root} any more.", "See what there is with: orchestrator jobs"
        )
    return subject


def find_all(storage: str | None = None) -> list[Subject]:
    """All runs and jobs: in `storage`, or the runs here and the jobs submitted here; oldest first."""
    return sorted((Subject(run, root) for run, root in roots(storage).items()), key=_created)


def roots(storage: str | None = None) -> dict[str, str]:
    """The folders of runs and jobs by their ids."""
    place = paths.absolute(storage or DEFAULT)
    store = open_store(place)
    own = (paths.TRACKING, paths.PACKAGES)
    here = {
        name: f"{place}/{name}"
        for name in store.list()
        if name not in own and any(store.exists(f"{name}/{file}") for file in (paths.RECORD, paths.JOB))
    }
    return here if storage is not None else {**jobs.roots_here(), **here}


def _created(subject: Subject) -> float:
    try:
        known = subject.run or subject.job
    except (FormatError, StorageError):
        return 0.0
    return known.created if known else 0.0


def _unknown(name: str, known: list[str], storage: str | None) -> UnknownRunError:
    where = f" in {paths.absolute(storage)}" if storage is not None else ""
    near = ", ".join(nearest(name, known))
    listing = f"{f'Nearest: {near}. ' if near else ''}List them with: orchestrator jobs, or orchestrator runs."
    return UnknownRunError(f"There is no run {name!r}{where}.", listing if known else runs.NO_RUNS)
