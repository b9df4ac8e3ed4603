"""Plans in files: written by `orchestrator plan --out`, run as they stand."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError, PlanError
from orchestrator.plans.types import Plan


def refuse_config(config: ConfigArgs, plan_file: str) -> None:
    """A plan holds its config: what is said of another one would be passed over."""
    given = [repr(override) for override in config.overrides]
    given += [f"--config-dir {config.config_dir}"] if config.config_dir else []
    given += [f"--config-name {config.config_name}"] if config.config_name != "config" else []
    if given:
        raise ConfigError(
            f"--plan {plan_file} runs a plan as it stands, and cannot take {given[0]}.", "Leave out one of the two."
        )


def read_plan(file: str) -> Plan:
    """A plan that `orchestrator plan --out` wrote."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PlanError(
            f"Plan {file} cannot be read: {reason}.", "Make one with: orchestrator plan ... --out plan.json"
        ) from error
    return Plan.from_json(text, file)
