"""A person's own training script in place of a Task: what can be said of it before it runs."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.schema import JobSpec
from orchestrator.errors import ConfigError, PlanError, nearest

UNUSED = ("activation_checkpointing", "compile")
"""Settings of our training loop that would be passed over in silence."""


def check(spec: JobSpec, project: Path) -> None:
    """Refuse a script that is not there or not Python, and settings that would have no effect."""
    name = str(spec.script)
    file = project / name
    if not file.is_file():
        near = ", ".join(nearest(name, [path.name for path in project.glob("*.py")]))
        raise ConfigError(f"script={name}: there is no such file in {project}.", f"Nearest: {near}." if near else "")
    try:
        compile(file.read_bytes(), name, "exec")
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"script={name} is not Python: {error} ({name}{line}).") from error
    for setting in UNUSED:
        if getattr(spec.job, setting):
            raise PlanError(f"job.{setting}=true has no effect on script={name}.", f"Set job.{setting}=false.")
    if spec.mesh.tensor != 1:
        raise PlanError(
            f"mesh.tensor={spec.mesh.tensor} cuts up a Task's model, and script={name} has its own.",
            "Set mesh.tensor=1.",
        )
