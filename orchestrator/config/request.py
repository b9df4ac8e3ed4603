"""Which config is asked for, before it is composed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.config.load import Loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigArgs:
    """What config is meant: the part of a command line, or of a call, that says so."""

    overrides: tuple[str, ...] = ()
    config_name: str = "config"
    config_dir: str | None = None
    cfg: str | None = None
    resolve: bool = False
    package: str | None = None
    info: str | None = None
    json: bool = False
    verbose: bool = False

    def load(self) -> Loaded:
        """Compose and validate the config."""
        from orchestrator.config import load

        return load.load(list(self.overrides), config_name=self.config_name, config_dir=self.config_dir)
