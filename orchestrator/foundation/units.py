"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from orchestrator.errors import ConfigError

GIB = 2**30
FACTORS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


def optional_bytes(key: str, value: object) -> int | None:
    """Bytes of `8GiB`, `500 MB` or a plain number, 1 or more; None stays None. `key` is named in the error."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip(), re.IGNORECASE)
    factor = FACTORS.get(match[2].upper()) if match and not isinstance(value, bool) else None
    if match is None or factor is None or float(match[1]) * factor < 1:
        raise ConfigError(f"{key}={value} is not an amount of memory.", "Give bytes, or a text as 8GiB or 500MB.")
    return int(float(match[1]) * factor)


def show_bytes(amount: float) -> str:
    """An amount in GiB, or in MiB when it is small."""
    return f"{amount / GIB:.4g} GiB" if amount >= GIB else f"{amount / 2**20:.4g} MiB"
