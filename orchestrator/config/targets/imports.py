"""Imports a target's module, and says what is wrong when that fails."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType

from orchestrator.config.explain.provenance import shown
from orchestrator.errors import TargetError

_EXTRAS = {
    **dict.fromkeys(("torch", "deepspeed", "ray", "numpy", "safetensors"), "node"),
    "sklearn": "jobs",
    "torchmetrics": "jobs",
    "mlflow": "tracking",
}
"""Which of our extras brings a package."""


def load_module(name: str, what: str, project: Path, where: str) -> ModuleType:
    """Import a module; `what` names the setting that asks for it, `where` says where it is set."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _not_found(error, name, what, project, where) from error
    except (Exception, SystemExit) as error:
        # The person's own module may raise anything while it is imported.
        raise _failed(error, name, what, where) from error


def _not_found(error: ModuleNotFoundError, name: str, what: str, project: Path, where: str) -> TargetError:
    absent = error.name or name
    if absent != name and not name.startswith(absent + "."):
        return _missing_dependency(absent, name, what, where)
    if absent in _EXTRAS:
        return _missing_dependency(absent, name, what, where)
    return TargetError(
        f"{what}: there is no module {absent}{where}.",
        f"Start the command in the folder of your project (now: {project}), or install the package.",
    )


def _missing_dependency(absent: str, name: str, what: str, where: str) -> TargetError:
    extra = _EXTRAS.get(absent.partition(".")[0])
    package = f"'orchestrator[{extra}]'" if extra else absent.partition(".")[0]
    return TargetError(
        f"{what}: {name} needs {absent}, which is not installed{where}.", f"Install it: pip install {package}"
    )


def _failed(error: BaseException, name: str, what: str, where: str) -> TargetError:
    reason = " ".join(str(error).split())
    raised = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return TargetError(f"{what}: importing {name} fails with {raised}{where}.", f"Raised at {_place(error)}.")


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(Path(error.filename))}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f"{shown(Path(frames[-1].filename))}:{frames[-1].lineno}" if frames else "an unknown place"
