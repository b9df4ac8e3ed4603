"""Which launcher a config means."""

from __future__ import annotations

from orchestrator.config.schema import JobSpec, LauncherName
from orchestrator.runtime.launchers.base import Launcher


def make_launcher(spec: JobSpec) -> Launcher:
    """The launcher that the config names."""
    if spec.cluster.launcher is LauncherName.torchrun:
        from orchestrator.runtime.launchers.torchrun import TorchrunLauncher

        return TorchrunLauncher()
    from orchestrator.runtime.launchers.ray.launcher import RayLauncher

    return RayLauncher(spec.cluster.address)
