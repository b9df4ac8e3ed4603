"""DeepSpeed without what a training does not need of it, which took longer to import than all the rest.

That is MLflow for its autotuner, which nothing of ours starts and which does without where there is none, and torch's
compiler for its Muon optimizer, which ZeRO imports whatever the optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any


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


def _compiled_when_called() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Stands for a decorator that compiles a function where it is written."""

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def compiled() -> Callable[..., Any]:
            import torch

            return torch.compile(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    return decorator


with _absent("mlflow"):
    import deepspeed as deepspeed

from deepspeed.runtime import compiler as _compiler  # noqa: E402  DeepSpeed is there from here on

_compile = _compiler.compile
_compiler.compile = _compiled_when_called
try:
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
finally:
    _compiler.compile = _compile
