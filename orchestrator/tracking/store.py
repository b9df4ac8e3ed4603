"""Where MLflow keeps its records: which store is meant, and whether it can be used now, said before training starts."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestrator import paths
from orchestrator.errors import ConfigError, TrackingError
from orchestrator.tracking import sqlite

WAYS_OUT = "Train without it (tracking=off), or name another store (tracking.uri=...)."
SQLITE = "sqlite:///"
HTTP = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
HOSTED = ("databricks",)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingStore:
    """One tracking store."""

    uri: str
    artifact_root: str | None
    """Where new experiments put their artifacts; None: the server decides."""
    embedded: bool
    """A SQLite file that this process opens itself, with no server."""
    ours: bool = False
    """It lies in run storage and we made it, so we also keep its schema current."""

    @property
    def shown(self) -> str:
        """The URI without a password, for people and records."""
        return without_password(self.uri)

    @property
    def database(self) -> Path:
        """The file of an embedded store."""
        return Path(self.uri.removeprefix(SQLITE))


def without_password(uri: str) -> str:
    """A URI with the user information left out of its host."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def resolve_uri(tracking_uri: str | None, storage_path: str) -> TrackingStore:
    """The store that is meant: the one named, else $MLFLOW_TRACKING_URI, else SQLite in the storage folder."""
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if named is None:
        return in_storage(storage_path)
    if named.startswith(SQLITE):
        database = Path(paths.absolute(named.removeprefix(SQLITE)))
        return TrackingStore(uri=f"{SQLITE}{database}", artifact_root=str(database.parent / "artifacts"), embedded=True)
    return TrackingStore(uri=named, artifact_root=None, embedded=False)


def in_storage(storage_path: str) -> TrackingStore:
    """The SQLite store that lies in a storage folder."""
    if paths.is_url(storage_path):
        raise ConfigError(
            f"storage.path={storage_path} is a URL, and MLflow's SQLite file can only lie in a folder.",
            "Name a tracking server (tracking.uri=http://...), a SQLite file (tracking.uri=sqlite:///mlflow.db), "
            "or train without it (tracking=off).",
        )
    folder = Path(paths.absolute(storage_path)) / paths.TRACKING
    return TrackingStore(
        uri=f"{SQLITE}{folder / 'mlflow.db'}", artifact_root=str(folder / "artifacts"), embedded=True, ours=True
    )


def prepare(store: TrackingStore, timeout_s: float) -> None:
    """Make the store ready for use, or say within `timeout_s` why it is not. Cheap when it is ready already."""
    scheme = store.uri.partition(":")[0].partition("+")[0]
    if store.embedded:
        sqlite.prepare(store.database, artifact_root=store.artifact_root or "", migrate=store.ours)
    elif scheme in HTTP:
        _check_answers(store, timeout_s)
    elif scheme in ("file", "") or ("://" not in store.uri and scheme not in HOSTED):
        raise ConfigError(
            f"The tracking URI {store.shown} is a folder, a kind of store that MLflow has given up.",
            f"Use a SQLite file instead: tracking.uri={SQLITE}mlflow.db.",
        )
    elif scheme not in (*DATABASES, *HOSTED) and scheme not in _plugins():
        known = ", ".join(sorted((*HTTP, "sqlite", *DATABASES, *HOSTED)))
        raise ConfigError(
            f"The tracking URI {store.shown} begins with {scheme!r}, which MLflow does not know.",
            f"Use one of: {known}.",
        )


def _plugins() -> set[str]:
    from importlib.metadata import entry_points

    return {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}


def _check_answers(store: TrackingStore, timeout_s: float) -> None:
    """Any answer but a server error will do: whether this one may write is found out by writing."""
    request = urllib.request.Request(f"{store.shown.rstrip('/')}/health", headers={"User-Agent": "orchestrator"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        reason = f"it answers {error.code} {error.reason}"
        error.close()
        if error.code < 500:
            return
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # it is there; MLflow's client has certificate settings of its own
        reason = str(getattr(error.reason, "strerror", None) or error.reason)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise TrackingError(f"The tracking server {store.shown} cannot be used: {reason}.", WAYS_OUT)
