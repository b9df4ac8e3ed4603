"""Found by Hydra by its place: `python app.py -m hydra/sweeper=orchestrator 'lr=interval(0,1)'`, for any Hydra app.

Every command that uses Hydra imports this, so what it does is elsewhere, and imported when it is done. Hydra does so
without entering it into `sys.modules`, where dataclasses would look up annotations that are texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class OrchestratorSweeperConf:
    """What `hydra.sweeper` has; docs/sweeps.md tells more."""

    _target_: str = "hydra_plugins.orchestrator_sweeper.OrchestratorSweeper"
    search: str | None = None
    trials: int | None = None
    mode: Any = "min"
    seed: int = 0
    at_once: int = 1
    params: dict[str, Any] = field(default_factory=dict)
    constraints: list[str] = field(default_factory=list)


ConfigStore.instance().store(
    group="hydra/sweeper", name="orchestrator", node=OrchestratorSweeperConf, provider="orchestrator"
)


class OrchestratorSweeper(Sweeper):
    """Searches an app's settings by what its function returns, in batches that the app's launcher runs."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the app, and the launcher that it is configured with."""
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search; returns the best value, or of several objectives the front."""
        from orchestrator.sweeps import hydra_app

        return hydra_app.carry_out(
            hydra_app.read(arguments, self._settings, self.hydra_context, self.config), self._launch
        )

    def _launch(self, batch: Sequence[Sequence[str]], first: int) -> Sequence[Any]:
        self.validate_batch_is_legal(batch)
        return self._launcher.launch(batch, initial_job_idx=first)
