"""The format of everything that a run's folder holds: plan, run, job, sweep and model carry one number.

It is raised when any of them changes so that an older version would misread it. Files of another format are refused
here, in one sentence, before anything else of them is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.errors import FormatError

FORMAT = 2
AGAIN = {
    "plan": "Make the plan again with: orchestrator plan ... --out plan.json",
    "run": "Train it again with this version.",
    "job": "Submit it again with this version.",
    "sweep": "Start the sweep again with this version.",
    "model": "Train the model again with this version.",
}
"""How to get one that this version reads."""


def check(kind: str, place: str, data: Any) -> None:
    """Refuse plain data of another format; `kind` is a key of AGAIN, `place` the file or folder that it was read from.

    Raises ValueError for what is no mapping, as damaged JSON does.
    """
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}, not a mapping")
    found = data.get("format")
    if found == FORMAT:
        return
    has = f"format {found}" if isinstance(found, int) else "no format number"
    newer = isinstance(found, int) and found > FORMAT
    raise FormatError(
        f"The {kind} in {place} has {has}, written by {'a newer' if newer else 'an older'} version; "
        f"this version reads format {FORMAT}.",
        "Use the version of orchestrator that wrote it." if newer else AGAIN[kind],
    )


def left_out(errors: Sequence[FormatError]) -> str:
    """What a listing says, in one line, of those that it goes on without."""
    more = f" {len(errors) - 1} more of other formats are left out too." if len(errors) > 1 else ""
    return f"Left out: {errors[0].message}{more}"
