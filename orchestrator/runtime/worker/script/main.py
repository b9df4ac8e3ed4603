"""The process of a person's training script: `python -m orchestrator.runtime.worker.script.main train.py ARGUMENTS`.

The script is run as `python train.py ARGUMENTS` would run it. Beside that, DeepSpeed is kept from compiling what no
training needs, and an exception is told to the run.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.script.script import LAUNCH


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls something when a module has been imported, whoever imports it."""

    def __init__(self, name: str, call: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._call = call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a call added behind its execution."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute, call = spec.loader.exec_module, self._call

        def executed(module: ModuleType) -> None:
            execute(module)
            call(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def main(script: str, *arguments: str) -> None:
    """Become the script."""
    from orchestrator.runtime.worker.boot import record_failure
    from orchestrator.runtime.worker.hardware import forgo_compiled_ops

    sys.meta_path.insert(0, AfterImport("deepspeed.ops", forgo_compiled_ops))
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit_:
        if exit_.code not in (None, 0):
            error = RuntimeError(f"{Path(script).name} ended with exit code {exit_.code}")
            record_failure(_launch(), int(os.environ["RANK"]), error.with_traceback(exit_.__traceback__))
        raise
    except BaseException as error:  # noqa: BLE001  the process' boundary: the run keeps it, with its traceback
        record_failure(_launch(), int(os.environ["RANK"]), error)
        raise SystemExit(1) from None


def _launch() -> Launch:
    return Launch(**json.loads(Path(os.environ[LAUNCH]).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
