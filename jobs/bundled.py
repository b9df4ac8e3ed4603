"""Small tables that come with scikit-learn, read from its files: to import it takes longer than to train on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def bundled(name: str, delimiter: str | None = ",") -> NDArray[np.float64]:
    """Rows of numbers."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return np.loadtxt(Path(found.origin).parent / "datasets" / "data" / name, delimiter=delimiter)
