"""The embedded MLflow store: one SQLite file, made once, by one process at a time, and never left half made.

MLflow alone migrates the schema in place on first use, 5 to 13 s, and two processes that do so at once crash each
other. Here a new database is made under another name and renamed; a marker beside it says for which version of MLflow
it is current, so that a run that finds it so need not even import MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.foundation.storage import write_atomically

LOCK_TIMEOUT_S = 120.0
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.", "9p", "afs")

log = logging.getLogger(__name__)


def prepare(database: Path, *, artifact_root: str, migrate: bool) -> None:
    """Make the database, or bring it to the schema of the installed MLflow. `migrate` says that an old one is ours."""
    installed = _mlflow_version()
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        _check_writable(database)
        if is_current(database, installed):
            return
        with _locked(database):
            if not is_current(database, installed):
                _make_current(database, artifact_root, migrate)
                _mark(database, installed)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrackingError(
            f"MLflow's database {database} cannot be used: {reason}.",
            "Set storage.path to a folder you can write to, name another store (tracking.uri=...), "
            "or train without it (tracking=off).",
        ) from error


def is_current(database: Path, installed: str) -> bool:
    """Whether the database has the schema that this version of MLflow expects, by the marker beside it."""
    try:
        mark = json.loads(_marker(database).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(mark.get("mlflow") == installed and mark.get("revision") == revision(database))


def revision(database: Path) -> str | None:
    """The schema revision of a database; None when there is none."""
    if not database.is_file() or database.stat().st_size == 0:
        return None
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
    return str(row[0]) if row else None


def _mlflow_version() -> str:
    try:
        return version("mlflow")
    except PackageNotFoundError as error:
        raise TrackingError(
            "MLflow is not installed.", "Install it (pip install 'orchestrator[tracking]'), or set tracking=off."
        ) from error


def _check_writable(database: Path) -> None:
    """SQLite writes beside its file too, and tells little when it cannot."""
    for path in (database.parent, database):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied", str(path))


def _marker(database: Path) -> Path:
    return database.with_name(f"{database.name}.schema.json")


def _mark(database: Path, installed: str) -> None:
    text = json.dumps({"mlflow": installed, "revision": revision(database)})
    write_atomically(_marker(database), f"{text}\n".encode())


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Only one process on this store; the lock ends with its process, however it ends."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with database.with_name(f"{database.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"Another process has been preparing {database} for {LOCK_TIMEOUT_S:g} s.",
                        f"See who holds it: fuser {file.name}",
                    ) from None
                time.sleep(0.1)
        yield


def _make_current(database: Path, artifact_root: str, migrate: bool) -> None:
    if revision(database) is None and not _has_tables(database):
        _create(database, artifact_root)
    else:
        _upgrade(database, migrate)
    _set_journal(database)


def _has_tables(database: Path) -> bool:
    if not database.is_file() or database.stat().st_size == 0:
        return False
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _create(database: Path, artifact_root: str) -> None:
    """Make the new database under another name, so that a crash leaves none rather than half of one."""
    from orchestrator.tracking.client import quiet_mlflow

    unfinished = database.with_name(f".{database.name}.new")
    unfinished.unlink(missing_ok=True)
    quiet_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{unfinished}", artifact_root)
    store.engine.dispose()
    for leftover in ("-wal", "-shm"):  # of a database that was deleted: SQLite would apply them to the new one
        database.with_name(f"{database.name}{leftover}").unlink(missing_ok=True)
    unfinished.replace(database)


def _upgrade(database: Path, migrate: bool) -> None:
    """Bring an older schema up to date, keeping a copy of the database as it was."""
    from orchestrator.tracking.client import quiet_mlflow

    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils

    uri, found = f"sqlite:///{database}", revision(database)
    if found == utils._get_latest_schema_revision():
        return
    if not migrate:
        raise TrackingError(
            f"The database {database} has MLflow's schema {found}, and the installed MLflow needs another.",
            f"Make a copy of it, then: mlflow db upgrade {uri}",
        )
    copy = database.with_name(f"{database.name}.before-{_mlflow_version()}")
    with contextlib.closing(sqlite3.connect(database)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    try:
        utils._upgrade_db(engine)
    except MlflowException as error:
        raise _not_upgraded(database, copy, str(error)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("alembic", "sqlalchemy"):
            raise
        raise _not_upgraded(database, copy, str(error)) from error
    finally:
        engine.dispose()
    log.info("MLflow's database was brought up to date; as it was before: %s", copy)


def _not_upgraded(database: Path, copy: Path, reason: str) -> TrackingError:
    return TrackingError(
        f"MLflow's database {database} could not be brought up to date: {reason}.",
        f"If a newer MLflow wrote it, install that one. As it was before: {copy}.",
    )


def _set_journal(database: Path) -> None:
    """Write-ahead logging, which the file remembers: readers and the writer no longer wait for each other.

    It needs memory shared between all who have the file open, which network file systems do not give.
    """
    mode = "DELETE" if _on_network(database.parent) else "WAL"
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")


def _on_network(folder: Path) -> bool:
    import psutil

    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: len(mount.mountpoint), reverse=True)
    for mount in mounts:
        if folder.resolve().is_relative_to(mount.mountpoint):
            return mount.fstype.lower().startswith(NETWORK_FILE_SYSTEMS)
    return False
