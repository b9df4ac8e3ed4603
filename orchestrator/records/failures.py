"""Why an attempt failed: what its workers left in run storage, told apart into causes and what follows from them.

A broken connection is no cause: when a worker is killed, all others fail too, sooner than the death is noticed. So a
worker's exception counts as its own only if it is not about the connection between workers; if none is left, a worker
was lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from orchestrator import errors
from orchestrator.errors import ConfigError, OrchestratorError

Record = Mapping[str, Any]
"""What `boot.record_failure` wrote: rank, time, type, message, where, traceback."""

LOST_CONNECTION_TYPES = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError"})
"""torch.distributed's exceptions for a peer that does not answer."""
LOST_CONNECTION_WORDS = ("/gloo/transport/", "/gloo/rendezvous/", "NCCL communicator was aborted")
"""How gloo and NCCL say so in a plain RuntimeError: gloo begins with the source file that noticed it."""
LOST_LOADER = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal: (Killed|Terminated))")
"""What torch's DataLoader raises when somebody ended a process that makes batches. Other signals are bugs or memory."""
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "Cannot allocate memory", "out of memory", "MemoryError")
"""How torch, its allocators, Python and Ray say that there was no memory left, each in the type or in the message."""


class Cause(Enum):
    """What kind of failure it was."""

    lost = "lost"
    """Workers or their nodes are gone, or the connection between them."""
    exception = "exception"
    """A worker's own exception: it will most likely come again."""
    config = "config"
    """What the config asks for: it stays wrong however often it is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an attempt failed."""

    cause: Cause
    message: str
    """In one line, for people."""
    rank: int | None = None
    """The worker whose log tells more; None: no worker said anything."""


def judge(records: Sequence[Record], launcher_says: str = "", lost: Sequence[int] = ()) -> Failure:
    """The cause, from the workers' exceptions and from what the launcher saw; `lost`: workers that it saw die.

    When one worker is killed, the others fail too, with exceptions about the connection that broke: these are no
    causes. The earliest other exception is; without one, something was lost.
    """
    first = next(iter(by_weight(records)), None)
    if first and not is_about_connection(first):
        return Failure(cause=_cause(first), message=describe(first), rank=first["rank"])
    if launcher_says:
        return Failure(cause=Cause.lost, message=launcher_says, rank=min(lost, default=None))
    if first:
        message = f"worker {first['rank']} lost the connection to the others"
        return Failure(cause=Cause.lost, message=message, rank=first["rank"])
    return Failure(cause=Cause.lost, message="the workers ended without a result")


def _cause(record: Record) -> Cause:
    if is_config_error(record):
        return Cause.config
    return Cause.lost if LOST_LOADER.search(str(record["message"])) else Cause.exception


def by_weight(records: Iterable[Record]) -> list[Record]:
    """Exceptions, the one that explains the others first: those about the connection last, and else the earliest."""
    return sorted(records, key=lambda record: (is_about_connection(record), float(record["time"])))


def is_about_connection(record: Record) -> bool:
    """Whether an exception only says that another worker does not answer any more."""
    message = str(record["message"])
    return record["type"] in LOST_CONNECTION_TYPES or any(words in message for words in LOST_CONNECTION_WORDS)


def is_out_of_memory(text: str) -> bool:
    """Whether an exception, as `type: message`, or what is told of a worker's death, means that memory ran out."""
    return any(words in text for words in OUT_OF_MEMORY_WORDS)


def is_config_error(record: Record) -> bool:
    """Whether a worker refused the config."""
    return _is_one_of(ConfigError, record)


def describe(record: Record) -> str:
    """A worker's exception in one line; one of ours says itself where to look."""
    message = " ".join(str(record["message"]).split())
    if _is_one_of(OrchestratorError, record):
        return message
    said = f"{record['type']}: {message}" if message else str(record["type"])
    return f"{said} (worker {record['rank']}, {record['where']})"


def _is_one_of(base: type[OrchestratorError], record: Record) -> bool:
    kind = getattr(errors, str(record["type"]), None)
    return isinstance(kind, type) and issubclass(kind, base)
