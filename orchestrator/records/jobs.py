"""Jobs: runs that were submitted. What is kept of one, and how it is found again, also when its cluster is gone."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation import formats
from orchestrator.foundation.storage import Store, open_store, write_atomically
from orchestrator.plans.types import Plan
from orchestrator.records import runs
from orchestrator.records.runs import RunRecord

LOCKS = ".locks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One time that a job was handed to Ray Jobs."""

    attempt: int
    """The run's first attempt that it makes; its own restarts follow."""
    id: str
    """Ray's name for it: `<run>-a<attempt>`."""
    time: float
    host: str
    cluster: str = ""
    """Name of the cluster that it was handed to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """What a submitted run is made of. It is the same for the same request, apart from the times of submission."""

    id: str
    job: str
    root: str
    """The run's own folder or URL."""
    created: float
    plan_digest: str
    package: str = ""
    """Digest of the project as it was sent."""
    project: str = ""
    """Name of the folder that it was sent from."""
    cluster: str = ""
    """Name of the cluster that it was handed to last."""
    asked: tuple[str, ...] = ()
    """What a person typed to get it: the same words, and the same project, mean the same job."""
    source: dict[str, str] = field(default_factory=dict)
    """Commit, branch and remote of the project, as MLflow's tags; nothing of a project that is in no repository."""
    prepares: bool = True
    """Whether its data may have to be prepared before there are workers."""
    sweep: bool = False
    """Whether it is a sweep: its plan is then that of the first trial."""
    submissions: tuple[Submission, ...] = ()
    format: int = formats.FORMAT

    @property
    def store(self) -> Store:
        """The run's folder."""
        return open_store(self.root)

    @property
    def storage(self) -> str:
        """The folder that holds the run's."""
        return self.root.rpartition("/")[0]

    @property
    def plan(self) -> Plan:
        """What it carries out."""
        return Plan.from_json(self.store.read(paths.PLAN), f"{self.root}/{paths.PLAN}")

    @property
    def run(self) -> RunRecord | None:
        """The run's record, which its driver writes; None before there is one."""
        try:
            return runs.read(self.store)
        except FileNotFoundError:
            return None

    @property
    def latest(self) -> Submission | None:
        """How it was handed in last."""
        return self.submissions[-1] if self.submissions else None

    @property
    def storage_flag(self) -> str:
        """What a command needs in order to find the job: nothing where it was submitted."""
        return "" if index_file(self.id).exists() else f" --storage {shlex.quote(self.storage)}"

    def save(self) -> None:
        """Write the record, all or nothing."""
        self.store.write(paths.JOB, json.dumps(self.to_dict(), indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JobRecord:
        """Read what `to_dict` wrote."""
        submissions = tuple(Submission(**each) for each in data.get("submissions", ()))
        return cls(**{**data, "submissions": submissions, "asked": tuple(data.get("asked", ()))})


def load(root: str) -> JobRecord | None:
    """The job in a run's folder; None where there is none."""
    try:
        data = json.loads(open_store(root).read(paths.JOB))
        formats.check("job", root, data)
        return JobRecord.from_dict(data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise runs.unreadable("job", f"{root}/{paths.JOB}", error) from error


def jobs(storage: str | None = None) -> list[JobRecord]:
    """All jobs that can be read, of `storage` or of those submitted here, oldest first; others are logged."""
    roots = _in_storage(storage) if storage is not None else roots_here()
    found = runs.readable(roots.values(), load)
    return sorted((job for job in found if job), key=lambda job: job.created)


def roots_here() -> dict[str, str]:
    """Where the jobs lie that were submitted on this machine, by their ids."""
    return {file.stem: str(json.loads(file.read_text(encoding="utf-8"))["root"]) for file in _index().glob("*.json")}


def note_here(job: JobRecord) -> None:
    """Remember on this machine where a job lies; this outlives its cluster."""
    told = {"id": job.id, "root": job.root, "cluster": job.cluster}
    file = index_file(job.id)
    try:
        write_atomically(file, (json.dumps(told) + "\n").encode())
    except OSError as error:
        raise StorageError(f"Cannot write {file}: {error.strerror}.", "Name a folder by ORCHESTRATOR_HOME.") from error


def index_file(run_id: str) -> Path:
    """The file on this machine that says where a job lies."""
    return _index() / f"{run_id}.json"


@contextmanager
def locked(run_id: str) -> Iterator[None]:
    """Let one process at a time of this machine hand in or change a job."""
    file = _index() / LOCKS / run_id
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("w")
    except OSError as error:
        raise StorageError(f"Cannot write {file}: {error.strerror}.", "Name a folder by ORCHESTRATOR_HOME.") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _index() -> Path:
    return paths.own_home() / "jobs"


def _in_storage(storage: str) -> dict[str, str]:
    place = paths.absolute(storage)
    store = open_store(place)
    own = (paths.TRACKING, paths.PACKAGES)
    return {name: f"{place}/{name}" for name in store.list() if name not in own and store.exists(f"{name}/{paths.JOB}")}
