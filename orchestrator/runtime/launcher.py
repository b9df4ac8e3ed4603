"""Who starts workers, as the driver sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.config.schema import JobSpec, LauncherName
from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The workers are gone. An empty error: all returned in order."""

    error: str = ""


class Launcher(Protocol):
    """Starts one gang of workers and watches it. One launch per object."""

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Begin to start the workers; returns at once. Raises MachineError when they can never start."""

    def poll(self) -> Ended | None:
        """None while workers live or are being started; does not block. Raises MachineError when starting failed."""

    def kill(self) -> None:
        """End the workers at once, without saving. Idempotent."""

    def close(self) -> None:
        """Let go of everything this launcher started, also of a Ray of our own. Idempotent; called in any case."""


def make_launcher(spec: JobSpec) -> Launcher:
    """The launcher that the config names."""
    if spec.cluster.launcher is LauncherName.torchrun:
        from orchestrator.runtime.torchrun import TorchrunLauncher

        return TorchrunLauncher()
    from orchestrator.runtime.ray_launcher import RayLauncher

    return RayLauncher(spec.cluster.address)
