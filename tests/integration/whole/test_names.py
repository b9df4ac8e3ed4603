"""What importing modules does to each other, in processes that import all of them: too slow for a unit test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
WORKER = "orchestrator.runtime.worker.train"


def test_public_names_stay_what_they_are_when_every_module_is_imported() -> None:
    """Importing `package.name` sets the attribute `name` of the package, in the place of what was there."""
    code = """
import importlib, pkgutil, types
import orchestrator

def fail(name):
    raise SystemExit(f"{name} could not be imported")

for found in pkgutil.walk_packages(orchestrator.__path__, "orchestrator.", onerror=fail):
    importlib.import_module(found.name)
for name in orchestrator.__all__:
    value = getattr(orchestrator, name)
    if isinstance(value, types.ModuleType):
        print(f"orchestrator.{name} is the module {value.__name__}")
    elif name != "__version__" and not callable(value):
        print(f"orchestrator.{name} cannot be called: {value!r}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("orchestrator.")] == []


def test_a_worker_loads_neither_ray_nor_mlflow() -> None:
    code = f"import sys, {WORKER}, orchestrator.jobs.text_classification\nprint(*{{'ray', 'mlflow', 'torchmetrics'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
