"""DeepSpeed without MLflow, which its autotuner would import: that took longer than all the rest of it.

Nothing of ours starts the autotuner, which does without MLflow where there is none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Nobody can import it meanwhile, unless it is there already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own sign for: not to be found
    try:
        yield
    finally:
        del sys.modules[module]


with _absent("mlflow"):
    import deepspeed as deepspeed
