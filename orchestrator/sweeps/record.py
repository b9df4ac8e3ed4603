"""A sweep's folder in run storage: what it was asked to be, its ledger, and one run for each trial.

NAME/sweep.json             what was asked; written once
NAME/ledger.jsonl           what became of it
NAME/trials/NAME-0007/      the run of trial 7: plan, events, logs, checkpoints, model, as of any run
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator import paths
from orchestrator.errors import ConfigError, UnknownRunError, nearest
from orchestrator.foundation import formats
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records import jobs, runs
from orchestrator.sweeps.definition import Definition, define
from orchestrator.sweeps.engine.ledger import Book, Ledger

SWEEP = "sweep.json"
TRIALS = "trials"
TUNE = "tune"
"""Folder for what Ray Tune keeps of its own; nobody reads it again."""
LOG = "logs/engine.log"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """What a sweep was asked to be."""

    name: str
    job: str
    created: float
    root: str
    project: str
    overrides: list[str]
    config_name: str
    config_dir: str | None
    digest: str
    space: dict[str, str]
    """The domain of each parameter, in words."""
    search: str
    scheduler: str
    trials: int
    objectives: dict[str, str]
    length: float
    unit: str
    gpus: float
    """GPUs that a trial holds."""
    workers: int
    format: int = formats.FORMAT

    @property
    def store(self) -> Store:
        """The sweep's folder."""
        return open_store(self.root)

    @property
    def storage(self) -> str:
        """Where sweeps and runs lie."""
        return self.root.rsplit("/", 1)[0]

    @property
    def storage_flag(self) -> str:
        """What a command needs in order to find the sweep."""
        return "" if self.storage == paths.absolute("runs") else f" --storage {shlex.quote(self.storage)}"

    def book(self) -> Book:
        """What became of it."""
        return Ledger(self.store).read()

    def definition(self) -> Definition:
        """The sweep as its config says now; refuses a config that has changed since it began."""
        definition = define(self.overrides, self.config_name, self.config_dir)
        if definition.digest != self.digest:
            raise ConfigError(
                f"The config of sweep {self.name} has changed since it began, so that its trials would not compare.",
                "Undo the change, or begin another sweep with another --name.",
            )
        return definition

    @property
    def package(self) -> str:
        """Where its project lies in run storage, if it was submitted; empty: it is a folder on every node."""
        job = jobs.load(self.root)
        return paths.package(job.storage, job.package) if job else ""

    def trial_root(self, number: int) -> str:
        """The run folder of a trial."""
        return f"{self.root}/{TRIALS}/{trial_id(self.name, number)}"


def trial_id(name: str, number: int) -> str:
    """The run id of a trial."""
    return f"{name}-{number:04d}"


def create(
    definition: Definition, name: str | None, gpus: float, workers: int, clock: Callable[[], float] = time.time
) -> SweepRecord:
    """Make a sweep's folder; one of that name and the same space is taken up again."""
    storage = paths.absolute(definition.spec.storage.path)
    job = definition.spec.job.name
    name = name or runs.new_id(f"{job}-sweep", clock)
    check_name(name)
    record = SweepRecord(
        name=name,
        job=job,
        created=clock(),
        root=f"{storage}/{name}",
        project=str(paths.project_dir()),
        overrides=list(definition.overrides),
        config_name=definition.config_name,
        config_dir=definition.config_dir,
        digest=definition.digest,
        space={parameter.key: str(parameter.domain) for parameter in definition.space.parameters},
        search=definition.search.value,
        scheduler=definition.settings.scheduler.value,
        trials=definition.trials,
        objectives=definition.objectives,
        length=definition.length,
        unit=definition.unit,
        gpus=gpus,
        workers=workers,
    )
    if record.store.exists(SWEEP):
        return _same(load(storage, name), record)
    if record.store.exists(paths.RECORD):
        raise ConfigError(f"There is a run with the name {name} in {storage}.", "Choose another --name.")
    record.store.write(SWEEP, json.dumps(dataclasses.asdict(record), indent=2) + "\n")
    return record


def _same(known: SweepRecord, wanted: SweepRecord) -> SweepRecord:
    if known.digest == wanted.digest and known.trials == wanted.trials:
        return known
    raise ConfigError(
        f"Sweep {known.name} exists already with another space or other settings.",
        f"Choose another --name, or go on with that one: orchestrator sweep resume {known.name}{known.storage_flag}",
    )


def check_name(name: str) -> None:
    """Refuse a name that could not be a folder, or that the command would not understand."""
    if name in COMMANDS:
        raise ConfigError(f"A sweep cannot have the name {name!r}: it is a command.", "Choose another --name.")
    try:
        runs.check_id(name)
    except ConfigError as error:
        raise ConfigError(error.message.replace("run", "sweep").replace("id", "name"), error.hint) from error


COMMANDS = ("list", "show", "best", "resume", "stop")


def names(storage: str) -> list[str]:
    """Names of all sweeps in a storage folder."""
    store = open_store(paths.absolute(storage))
    return [name for name in store.list() if name != paths.TRACKING and store.exists(f"{name}/{SWEEP}")]


def list_sweeps(storage: str) -> list[SweepRecord]:
    """All sweeps that can be read, oldest first; damaged records and those of other formats are logged and left out."""
    records = runs.readable(names(storage), lambda name: _read(storage, name))
    return sorted(records, key=lambda record: record.created)


def load(storage: str, name: str) -> SweepRecord:
    """One sweep; a unique beginning of its name is enough, and `last` is the newest."""
    known = names(storage)
    if name == runs.LAST and (readable := list_sweeps(storage)):
        return readable[-1]
    matches = [other for other in known if other == name] or [other for other in known if other.startswith(name)]
    if len(matches) == 1:
        return _read(storage, matches[0])
    if matches:
        raise UnknownRunError(f"The name {name!r} is ambiguous: {', '.join(matches)}.", "Give more of it.")
    near = ", ".join(nearest(name, known))
    hint = f"Nearest: {near}." if near else "If yours lie elsewhere, name the place with --storage."
    raise UnknownRunError(f"There is no sweep {name!r} in {paths.absolute(storage)}.", hint)


def _read(storage: str, name: str) -> SweepRecord:
    root = f"{paths.absolute(storage)}/{name}"
    try:
        data: dict[str, Any] = json.loads(open_store(root).read(SWEEP))
        formats.check("sweep", root, data)
        return SweepRecord(**{**data, "root": root})
    except (OSError, ValueError, TypeError) as error:
        raise runs.unreadable("sweep", f"{root}/{SWEEP}", error) from error
