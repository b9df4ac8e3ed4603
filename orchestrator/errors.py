"""Every error a person can meet, with the exit code it ends a command with.

OrchestratorError               1
├── ConfigError                 2   something the person wrote: a key, a value, a group, an override
│   ├── TargetError             2   a `_target_` or `task` that may not run, or does not exist
│   └── PlanError               2   parts that are right by themselves and do not go together
├── DataError                   1   the data cannot be read, or is not what it is said to be
├── UnknownRunError             2   a run id that is not in run storage
├── FormatError                 2   a plan, run, job, sweep or model that another version wrote
├── MachineError                3   this machine or cluster lacks what the plan needs
│   ├── StorageError            3   run storage cannot be read or written
│   └── TrackingError           3   the tracking server or store does not answer
├── StaleAttemptError           1   a newer attempt has taken the run over
├── RunFailedError              1   the run started, and failed
└── RunStoppedError           130   a person stopped the run

Messages say what happened and name field and value; `hint` says what to do about it. All of them pickle.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of all errors that are shown to people as one line, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(OrchestratorError):
    """What the person wrote is wrong: a key, a value, a group, an override."""

    exit_code = 2


class TargetError(ConfigError):
    """A target that may not run, or that does not exist."""


class PlanError(ConfigError):
    """Settings that are each right and do not go together."""


class DataError(OrchestratorError):
    """The data cannot be read, or is not what it is said to be; mended data can be gone on with."""


class UnknownRunError(OrchestratorError):
    """There is no such run in run storage."""

    exit_code = 2


class FormatError(OrchestratorError):
    """A plan, run, job, sweep or model has a format that this version does not read."""

    exit_code = 2


class MachineError(OrchestratorError):
    """The machine or cluster lacks what the plan needs."""

    exit_code = 3


class StorageError(MachineError):
    """Run storage cannot be read or written."""


class TrackingError(MachineError):
    """The tracking server or store does not answer."""


class StaleAttemptError(OrchestratorError):
    """A newer attempt has taken the run over: what this one does no longer counts."""


class RunFailedError(OrchestratorError):
    """The run started and failed; `message` begins with the user's own exception."""

    exit_code = 1


class RunStoppedError(OrchestratorError):
    """A person stopped the run."""

    exit_code = 130


def nearest(word: str, known: list[str], count: int = 3) -> list[str]:
    """The known words that look most like `word`, best first; all of them, if they are few and none is like it."""
    import difflib

    close = difflib.get_close_matches(word, known, n=count, cutoff=0.5)
    return close or (sorted(known) if len(known) <= 12 else [])


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint that names the nearest known words, or nothing when there are none."""
    close = nearest(word, known)
    if not close:
        return ""
    if len(close) == 1:
        return f"Did you mean {close[0]!r}?"
    return "Nearest: " + ", ".join(close) + "."
